/* http.c: the one request and its reply, HTTP/1.1 of exactly so many bytes, so that who proxies
 * requests can carry them too. Reads any reply with a Content-Length: such a proxy rewrites heads. */
#include "load.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

static const char end_of_head[] = {'\r', '\n', '\r', '\n'};

void http_make_request(char *to, size_t bytes)
{
    static const char head[] = "GET / HTTP/1.1\r\nHost: bench\r\nX-Fill: ";
    memset(to, 'x', bytes);
    memcpy(to, head, sizeof(head) - 1);
    memcpy(to + bytes - sizeof(end_of_head), end_of_head, sizeof(end_of_head));
}

void http_make_reply(char *to, size_t bytes)
{
    char head[] = "HTTP/1.1 200 OK\r\nContent-Length: 000000\r\n\r\n";
    size_t size = sizeof(head) - 1;
    snprintf(head, sizeof(head), "HTTP/1.1 200 OK\r\nContent-Length: %06zu\r\n\r\n", bytes - size);
    memset(to, 'x', bytes);
    memcpy(to, head, size);
}

bool http_request_ends(char tail[4], const char *data, size_t size)
{
    size_t kept = size < 4 ? 4 - size : 0;
    memmove(tail, tail + 4 - kept, kept);
    memcpy(tail + kept, data + size - (4 - kept), 4 - kept);
    return memcmp(tail, end_of_head, sizeof(end_of_head)) == 0;
}

/* Sets what is left to come of the body. */
static bool read_head(struct reply *reply, const char *end)
{
    static const char good[] = "HTTP/1.1 200 ", name[] = "Content-Length:";
    if (end - reply->head < (ptrdiff_t)sizeof(good) ||
        memcmp(reply->head, good, sizeof(good) - 1) != 0)
        return false;
    for (const char *line = reply->head; line < end;) {
        line = (const char *)memchr(line, '\n', (size_t)(end - line + 2)) + 1;
        if (strncasecmp(line, name, sizeof(name) - 1) == 0) {
            line += sizeof(name) - 1;
            line += strspn(line, " ");
            char *rest;
            reply->left = strtoull(line, &rest, 10);
            return *line >= '0' && *line <= '9' && *rest == '\r' && reply->left <= SCRATCH_BYTES;
        }
    }
    return false;
}

int reply_take(struct reply *reply, const char *data, size_t size)
{
    if (!reply->in_body) {
        size_t before = reply->head_bytes, room = sizeof(reply->head) - before;
        size_t taken = size < room ? size : room;
        memcpy(reply->head + before, data, taken);
        char *end = memmem(reply->head, before + taken, end_of_head, sizeof(end_of_head));
        reply->head_bytes += (uint32_t)taken;
        if (end == NULL)
            return taken < size ? -EPROTO : 0;
        if (!read_head(reply, end))
            return -EPROTO;
        size -= (size_t)(end - reply->head) + sizeof(end_of_head) - before;
        reply->in_body = true;
    }
    if (size > reply->left)
        return -EPROTO;
    reply->left -= size;
    return reply->left == 0;
}
