/* fuzz_sni.c: the body of a server_name extension. */
#include <stdlib.h>

#include "sni.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char buf[SNI_MAX + 1];
    if (sni_from_extension(data, size, buf) < 0)
        return 0;
    size_t len = strlen(buf);
    if (len == 0 || len + 5 != size || memcmp(buf, data + 5, len) != 0 || !sni_is_valid(buf, len))
        abort();
    for (size_t i = 0; i < len; i++)
        if (buf[i] <= ' ' || buf[i] >= 0x7f || (buf[i] >= 'A' && buf[i] <= 'Z'))
            abort();
    return 0;
}
