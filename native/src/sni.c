/* sni.c: see sni.h. */
#include "sni.h"

static bool is_label_char(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '_';
}

bool sni_is_valid(const char *text, size_t len)
{
    if (len == 0 || len > SNI_MAX)
        return false;
    bool has_letter = false; /* dotted digits are an IPv4 address, which is no host name */
    for (size_t at = 0;;) {
        size_t start = at;
        while (at < len && is_label_char(text[at])) {
            has_letter |= text[at] < '0' || text[at] > '9';
            at++;
        }
        size_t label_len = at - start;
        if (label_len == 0 || label_len > SNI_LABEL_MAX || text[start] == '-' ||
            text[at - 1] == '-')
            return false;
        if (at == len)
            return has_letter;
        if (text[at] != '.')
            return false;
        at++; /* a label must follow: a trailing dot leaves an empty one */
    }
}

int sni_from_extension(const uint8_t *ext, size_t len, char *buf)
{
    enum { HEAD = 5, TYPE_HOST_NAME = 0 }; /* list length 2, name type 1, name length 2 */
    if (len < HEAD)
        return -EINVAL;
    size_t list_len = (size_t)ext[0] << 8 | ext[1];
    size_t name_len = (size_t)ext[3] << 8 | ext[4];
    if (list_len != len - 2 || ext[2] != TYPE_HOST_NAME || name_len != len - HEAD ||
        !sni_is_valid((const char *)ext + HEAD, name_len))
        return -EINVAL;
    memcpy(buf, ext + HEAD, name_len);
    buf[name_len] = '\0';
    return 0;
}
