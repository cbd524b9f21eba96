/* test_urgent.c: urgent data (RFC 6093) in a stream: the kernel ends a read before its mark, with
 * more behind it. The byte itself is not passed on; all others must be, at once. */
#include <pthread.h>
#include <sys/socket.h>
#include <unistd.h>

#include "site.h"
#include "test.h"

enum { SIZE = 20000, BULK_SIZE = 8 << 20 };

static struct site site; /* large, and its engine points into it */
static char sent[BULK_SIZE], got[BULK_SIZE];

static void *send_bulk(void *client)
{
    return site_send(*(int *)client, sent, BULK_SIZE) ? client : NULL;
}

/* So much at once that the stream goes by splice from then on. */
static void bulk(int client, int accepted)
{
    pthread_t thread;
    void *good = NULL;
    if (!CHECK(pthread_create(&thread, NULL, send_bulk, &client) == 0))
        return;
    CHECK(site_receive(accepted, got, BULK_SIZE));
    pthread_join(thread, &good);
    CHECK(good != NULL && site_stat(&site, STAT_SPLICED_BYTES) > 0);
}

static void urgent_data(bool spliced)
{
    site_init(&site, "a.test", 1);
    uint16_t port;
    int service = site_listen(&port);
    site_add_plain(&site.outbound, port);
    site_start(&site);
    int client = site_connect(&site, "127.0.1.1");
    int accepted = client >= 0 ? site_accept(service) : -1;
    if (CHECK(accepted >= 0) && CHECK(site_echo(client, accepted))) {
        if (spliced)
            bulk(client, accepted);
        for (int i = 0; i < 50; i++) { /* each time a read may end at the mark, or not */
            if (!CHECK(send(client, "ab!", 3, MSG_OOB) == 3 && site_send(client, sent, SIZE)) ||
                !CHECK(site_receive(accepted, got, 2) && site_receive(accepted, got, SIZE)))
                break;
        }
        CHECK(send(client, "ab!", 3, MSG_OOB) == 3 && site_send(client, sent, SIZE));
        shutdown(client, SHUT_WR);
        CHECK(site_receive(accepted, got, 2) && site_receive(accepted, got, SIZE));
        CHECK(site_ended(accepted)); /* at the end, not at the mark */
    }
    close(accepted);
    close(client);
    close(service);
    site_fini(&site);
}

static void what_follows_urgent_data_is_not_left_behind(void)
{
    urgent_data(false);
}

static void nor_in_a_stream_that_goes_by_splice(void)
{
    urgent_data(true);
}

TEST_MAIN(TEST(what_follows_urgent_data_is_not_left_behind),
          TEST(nor_in_a_stream_that_goes_by_splice))
