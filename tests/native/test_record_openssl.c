/* test_record_openssl.c: control records between the data: a read must not call the socket drained
 * for them, since no edge will tell of what is left in it, and must not take them without end. */
#include <sys/socket.h>

#include "sys.h"
#include "test.h"
#include "tls_internal.h"
#include "tls_pair.h"

enum { RECORD_HEAD = 5, CONTROLS_FEW = 8, CONTROLS_MANY = 100 };

/* A socket whose reads end where a record ends. */
static ssize_t recv_one_record(int fd, void *buf, size_t len, int flags)
{
    uint8_t head[RECORD_HEAD];
    if (sys_real.recv(fd, head, sizeof(head), MSG_PEEK) == RECORD_HEAD) {
        size_t size = RECORD_HEAD + ((size_t)head[3] << 8 | head[4]);
        len = len < size ? len : size;
    }
    return sys_real.recv(fd, buf, len, flags);
}

static void update_keys(struct tls *tls, unsigned times)
{
    while (times-- > 0) {
        CHECK_INT(SSL_key_update(tls->ssl, SSL_KEY_UPDATE_NOT_REQUESTED), 1);
        CHECK_INT(SSL_do_handshake(tls->ssl), 1);
    }
}

static struct sites sites;
static struct pair pair;
static struct sys_table table;

static bool connect_records_apart(void)
{
    pair_client_layer = pair_server_layer = DP_RECORD_OPENSSL;
    sites_init(&sites);
    bool good = pair_connect(&pair, &sites, sites.web, PAYMENTS_SNI, PAYMENTS_ID);
    table = sys_real;
    table.recv = recv_one_record;
    sys = &table;
    return good;
}

static void fini(void)
{
    sys = &sys_real;
    pair_close(&pair);
    sites_fini(&sites);
}

static void data_behind_control_records_is_read_at_once(void)
{
    if (CHECK(connect_records_apart())) {
        struct record *out = tls_record(pair.server), *in = tls_record(pair.client);
        char got[8];
        CHECK_INT(out->ops->write(out, "a", 1), 1);
        update_keys(pair.server, CONTROLS_FEW);
        CHECK_INT(out->ops->write(out, "b", 1), 1);
        CHECK_INT(in->ops->read(in, got, sizeof(got)), 2);
        CHECK(memcmp(got, "ab", 2) == 0);
        CHECK(!in->ops->pending(in));
        update_keys(pair.server, 1);
        CHECK_INT(in->ops->read(in, got, sizeof(got)), -EAGAIN); /* and now there is no more */
        CHECK_INT(sys_real.recv(pair.client_fd, got, 1, MSG_PEEK), -EAGAIN);
    }
    fini();
}

static void control_records_without_end_are_refused(void)
{
    if (CHECK(connect_records_apart())) {
        struct record *in = tls_record(pair.client);
        char got[8];
        update_keys(pair.server, CONTROLS_MANY);
        CHECK_INT(in->ops->read(in, got, sizeof(got)), -EBADMSG);
        CHECK_INT(tls_reason(pair.client), DP_REASON_HANDSHAKE);
        CHECK_TEXT(tls_detail(pair.client), "peer sends control records only");
    }
    fini();
}

TEST_MAIN(TEST(data_behind_control_records_is_read_at_once),
          TEST(control_records_without_end_are_refused))
