/* hex.h: published vectors as text: spaces are skipped, anything else that is no hex aborts. */
#ifndef SLUICE_TEST_HEX_H
#define SLUICE_TEST_HEX_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

__attribute__((unused)) static size_t hex_bytes(const char *text, uint8_t *ret, size_t size)
{
    size_t n = 0;
    for (const char *p = text; *p != '\0'; p++) {
        unsigned byte;
        if (*p == ' ')
            continue;
        if (n == size || sscanf(p, "%2x", &byte) != 1) {
            fprintf(stderr, "bad vector: %s\n", text);
            abort();
        }
        ret[n++] = (uint8_t)byte;
        p++;
    }
    return n;
}

__attribute__((unused)) static bool hex_is(const char *text, const uint8_t *got, size_t len)
{
    uint8_t want[1024];
    return hex_bytes(text, want, sizeof(want)) == len && memcmp(want, got, len) == 0;
}

#endif
