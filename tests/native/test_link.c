/* test_link.c: header and reply there and back, and a table of what is refused. */
#include "link.h"
#include "test.h"

static const uint8_t v4_a[16] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 198, 18, 0, 1};
static const uint8_t v4_b[16] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 198, 19, 0, 2};
static const uint8_t v6_a[16] = {0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1};

static struct link_header header_of(const uint8_t *src, const uint8_t *dst)
{
    struct link_header header = {.src_port = 40000, .dst_port = 5432};
    memcpy(header.src_addr, src, 16);
    memcpy(header.dst_addr, dst, 16);
    memcpy(header.flow_id, "0123456789abcdef", 16);
    return header;
}

static bool same_header(const struct link_header *a, const struct link_header *b)
{
    return memcmp(a->src_addr, b->src_addr, 16) == 0 && memcmp(a->dst_addr, b->dst_addr, 16) == 0 &&
           a->src_port == b->src_port && a->dst_port == b->dst_port &&
           memcmp(a->flow_id, b->flow_id, 16) == 0 && a->local == b->local;
}

static void header_round_trip(void)
{
    const struct { const uint8_t *src, *dst; int size; } cases[] = {
        {v4_a, v4_b, 47}, {v6_a, v6_a, 71}, {v4_a, v6_a, 71}, {v6_a, v4_b, 71}};
    for (size_t i = 0; i < DP_COUNT(cases); i++) {
        struct link_header in = header_of(cases[i].src, cases[i].dst), out;
        uint8_t buf[LINK_HEADER_MAX + 8];
        int size = link_header_encode(&in, buf, LINK_HEADER_MAX);
        REQUIRE_INT(size, cases[i].size);
        CHECK_INT(link_header_encode(&in, buf, (size_t)size - 1), -ENOBUFS);
        memset(buf + size, 'x', 8); /* payload behind it is not looked at */
        CHECK_INT(link_header_decode(buf, (size_t)size + 8, &out), size);
        CHECK(same_header(&in, &out));
        for (int n = 0; n < size; n++)
            CHECK_INT(link_header_decode(buf, (size_t)n, &out), 0);
    }
}

static void header_local(void)
{
    struct link_header in = {.local = true}, out = {0};
    uint8_t buf[64] = {0};
    CHECK_INT(link_header_encode(&in, buf, sizeof(buf)), 16);
    CHECK_INT(link_header_decode(buf, 16, &out), 16);
    CHECK(out.local);
    buf[15] = 5; /* a block that must be skipped */
    CHECK_INT(link_header_decode(buf, 20, &out), 0);
    CHECK_INT(link_header_decode(buf, 21, &out), 21);
}

/* Changes one thing in a good header; each must be refused and leave the output alone. */
static void header_bad(void)
{
    const struct { const char *what; size_t at; uint8_t value; } cases[] = {
        {"signature's first byte", 0, 'G'},   {"signature's last byte", 11, '\r'},
        {"version 1", 12, 0x11},              {"command 2", 12, 0x22},
        {"family unspecified", 13, 0x00},     {"family UDP", 13, 0x12},
        {"family Unix", 13, 0x31},            {"block longer than we take", 14, 0x03},
        {"block shorter than addresses", 15, 11}, {"block ends inside a TLV's head", 15, 14},
        {"block ends inside a TLV", 15, 30},  {"TLV longer than the block", 30, 17},
        {"TLV's length, high byte", 29, 1},   {"flow id of 15 bytes", 30, 15},
    };
    struct link_header in = header_of(v4_a, v4_b), out = header_of(v6_a, v6_a), before = out;
    uint8_t good[LINK_HEADER_MAX], buf[LINK_HEADER_MAX];
    int size = link_header_encode(&in, good, sizeof(good));
    REQUIRE_INT(size, 47);
    for (size_t i = 0; i < DP_COUNT(cases); i++) {
        memcpy(buf, good, (size_t)size);
        buf[cases[i].at] = cases[i].value;
        if (!CHECK_INT(link_header_decode(buf, (size_t)size, &out), -EPROTO))
            printf("# %s\n", cases[i].what);
        CHECK(same_header(&out, &before));
    }
    memcpy(buf, good, (size_t)size);
    memcpy(buf + size, good + 28, 19); /* a second flow id */
    buf[15] = 12 + 19 + 19;
    CHECK_INT(link_header_decode(buf, (size_t)size + 19, &out), -EPROTO);
    CHECK_INT(link_header_decode((const uint8_t *)"GET / HT", 8, &out), -EPROTO);
}

static void header_unknown_tlv(void)
{
    struct link_header in = header_of(v4_a, v4_b), out;
    uint8_t buf[LINK_HEADER_MAX];
    int size = link_header_encode(&in, buf, sizeof(buf));
    REQUIRE_INT(size, 47);
    memcpy(buf + size, "\xe0\x00\x02zz", 5);
    buf[15] = 12 + 19 + 5;
    CHECK_INT(link_header_decode(buf, (size_t)size + 5, &out), size + 5);
    CHECK(same_header(&in, &out));
}

static struct link_reply reply_of(void)
{
    struct link_reply reply = {.reason = DP_REASON_DENIED, .capabilities = 0x80000001,
                               .detail = "policy shop/deny-batch, rule 2"};
    memcpy(reply.flow_id, "fedcba9876543210", 16);
    return reply;
}

static void reply_round_trip(void)
{
    for (uint8_t version = 1; version <= 2; version++) {
        struct link_reply in = reply_of(), out;
        uint8_t buf[LINK_REPLY_MAX];
        int size = link_reply_encode(&in, version, buf, sizeof(buf));
        REQUIRE(size > 0);
        CHECK_INT(link_reply_encode(&in, version, buf, (size_t)size - 1), -ENOBUFS);
        CHECK_INT(link_reply_decode(buf, sizeof(buf), version, &out), size);
        CHECK_INT(out.reason, in.reason);
        CHECK_INT(out.capabilities, in.capabilities);
        CHECK(memcmp(out.flow_id, in.flow_id, 16) == 0);
        CHECK_TEXT(out.detail, version == 1 ? "" : in.detail);
        for (int n = 0; n < size; n++)
            CHECK_INT(link_reply_decode(buf, (size_t)n, version, &out), 0);
        CHECK_INT(link_reply_decode(buf, (size_t)size, 3 - version, &out), -EPROTO);
    }
}

static void reply_longest_detail(void)
{
    struct link_reply in = reply_of(), out;
    memset(in.detail, 'd', DP_DETAIL_MAX);
    in.detail[DP_DETAIL_MAX] = 0;
    uint8_t buf[LINK_REPLY_MAX];
    int size = link_reply_encode(&in, 2, buf, sizeof(buf));
    CHECK_INT(size, 28 + DP_DETAIL_MAX);
    CHECK_INT(link_reply_decode(buf, (size_t)size, 2, &out), size);
    CHECK_TEXT(out.detail, in.detail);
}

static void reply_cleans_detail(void)
{
    struct link_reply in = reply_of(), out;
    strcpy(in.detail, "a\x1b[2Jb\xc2\x9b" "c");
    uint8_t buf[LINK_REPLY_MAX];
    int size = link_reply_encode(&in, 2, buf, sizeof(buf));
    REQUIRE(size > 0);
    CHECK_INT(link_reply_decode(buf, (size_t)size, 2, &out), size);
    CHECK_TEXT(out.detail, "a?[2Jb??c");
}

static void reply_bad(void)
{
    const struct { const char *what; size_t at; uint8_t value; } cases[] = {
        {"magic 0", 0, 'X'},      {"magic 1", 1, 'X'},       {"version 0", 2, 0},
        {"version 3", 2, 3},      {"reserved byte", 3, 1},   {"too long", 4, 0x7f},
        {"too short", 5, 27},     {"escape in detail", 28, 0x1b}, {"NUL in detail", 29, 0},
        {"high byte in detail", 30, 0x9b}, {"delete in detail", 31, 0x7f},
    };
    struct link_reply in = reply_of(), out = {.reason = 77};
    uint8_t good[LINK_REPLY_MAX], buf[LINK_REPLY_MAX];
    int size = link_reply_encode(&in, 2, good, sizeof(good));
    REQUIRE(size > 0);
    for (size_t i = 0; i < DP_COUNT(cases); i++) {
        memcpy(buf, good, (size_t)size);
        buf[cases[i].at] = cases[i].value;
        if (!CHECK_INT(link_reply_decode(buf, (size_t)size, 2, &out), -EPROTO))
            printf("# %s\n", cases[i].what);
        CHECK_INT(out.reason, 77);
    }
    size = link_reply_encode(&in, 1, buf, sizeof(buf));
    REQUIRE_INT(size, 28);
    buf[5] = 29; /* version 1 has no detail */
    CHECK_INT(link_reply_decode(buf, 29, 1, &out), -EPROTO);
}

static void reply_of_a_newer_peer(void)
{
    struct link_reply in = reply_of(), out;
    in.reason = DP_REASON_COUNT + 5;
    uint8_t buf[LINK_REPLY_MAX];
    int size = link_reply_encode(&in, 2, buf, sizeof(buf));
    REQUIRE(size > 0);
    CHECK_INT(link_reply_decode(buf, (size_t)size, 2, &out), size);
    CHECK_INT(out.reason, DP_REASON_REMOTE);
}

TEST_MAIN(TEST(header_round_trip), TEST(header_local), TEST(header_bad), TEST(header_unknown_tlv),
          TEST(reply_round_trip), TEST(reply_longest_detail), TEST(reply_cleans_detail),
          TEST(reply_bad), TEST(reply_of_a_newer_peer))
