/* fuzz_reply.c: first byte chooses the link version, the rest is a reply. What is accepted is
 * printable, has a reason we know and encodes to the same. */
#include <stdlib.h>

#include "link.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    uint8_t version = 1 + (data[0] & 1);
    data++;
    size--;
    struct link_reply reply, again;
    int used = link_reply_decode(data, size, version, &reply);
    if (used < 0 && used != -EPROTO)
        abort();
    if (used <= 0)
        return 0;
    if ((size_t)used > size || reply.reason >= DP_REASON_COUNT ||
        strnlen(reply.detail, sizeof(reply.detail)) > DP_DETAIL_MAX)
        abort();
    for (const char *c = reply.detail; *c; c++)
        if (*c < 0x20 || *c > 0x7e)
            abort();
    uint8_t buf[LINK_REPLY_MAX];
    if (link_reply_encode(&reply, version, buf, sizeof(buf)) != used ||
        link_reply_decode(buf, (size_t)used, version, &again) != used ||
        again.reason != reply.reason || again.capabilities != reply.capabilities ||
        strcmp(again.detail, reply.detail) != 0)
        abort();
    return 0;
}
