/* fuzz_link.c: any bytes as a PROXY v2 header. What is accepted must encode and decode to the
 * same; the answer must not depend on bytes behind the header. */
#include <stdlib.h>

#include "link.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct link_header header, again;
    int used = link_header_decode(data, size, &header);
    if (used < 0 && used != -EPROTO)
        abort();
    if (used <= 0)
        return 0;
    if ((size_t)used > size || used > LINK_HEADER_MAX)
        abort();
    if (link_header_decode(data, (size_t)used, &again) != used ||
        link_header_decode(data, (size_t)used - 1, &again) != 0)
        abort();
    uint8_t buf[LINK_HEADER_MAX];
    int n = link_header_encode(&header, buf, sizeof(buf));
    if (n <= 0 || link_header_decode(buf, (size_t)n, &again) != n)
        abort();
    if (again.local != header.local || again.src_port != header.src_port ||
        again.dst_port != header.dst_port ||
        memcmp(again.src_addr, header.src_addr, 16) != 0 ||
        memcmp(again.dst_addr, header.dst_addr, 16) != 0 ||
        memcmp(again.flow_id, header.flow_id, 16) != 0)
        abort();
    return 0;
}
