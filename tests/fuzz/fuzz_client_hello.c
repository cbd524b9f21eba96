/* fuzz_client_hello.c: what a stranger may send to a mesh listener before anything else. No input
 * can end in a handshake, since it cannot know the server's key share; each must end in a refusal
 * that says why. */
#include <openssl/err.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "sni.h"
#include "tls_pair.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { INPUT_MAX = 1 << 16, TURNS_MAX = 64 };

static void must(bool condition)
{
    if (!condition)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct sites sites;
    if (sites.ctx_b == NULL) {
        uint8_t keys[DP_TICKET_KEY_SIZE];
        memset(keys, 7, sizeof(keys)); /* so that tickets in the corpus can be opened */
        sites_init(&sites);
        must(tls_context_set_ticket_keys(sites.ctx_b, keys, 1) == 0);
    }
    if (size > INPUT_MAX)
        return 0;
    int fds[2], result = 0;
    struct tls *server;
    socket_pair(fds);
    must(tls_new_server(sites.ctx_b, fds[1], &server) == 0);
    must(send(fds[0], data, size, 0) == (ssize_t)size);
    shutdown(fds[0], SHUT_WR);
    for (int i = 0; i < TURNS_MAX && result == 0; i++)
        result = tls_handshake(server, sites.snap_b);
    must(result == -EPROTO || result == -EACCES);
    must(tls_reason(server) != DP_REASON_NONE && tls_reason(server) < DP_REASON_COUNT);
    must(tls_detail(server)[0] != '\0');
    must(strlen(tls_detail(server)) <= DP_DETAIL_MAX && strlen(tls_sni(server)) <= SNI_MAX);
    must(ERR_peek_error() == 0);
    tls_free(server);
    close(fds[0]);
    close(fds[1]);
    return 0;
}
