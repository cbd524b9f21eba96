/* test_strangers.c: the room for strangers, in all and for each source. */
#include "strangers.h"

#include "site.h"
#include "test.h"

enum { MAX = 64, HALF = MAX / 2, SHARE = MAX / 8 };

static void address(uint8_t *ret, const char *subnet, unsigned last)
{
    site_address(subnet, ret);
    ret[15] = (uint8_t)last;
}

/* How many more of addr get in; *ret_why is what the next one hears. */
static unsigned fill(struct strangers *strangers, const uint8_t *addr,
                     struct stranger_source **sources, int *ret_why)
{
    unsigned entered = 0;
    while ((*ret_why = strangers_enter(strangers, addr, &sources[entered])) == 0)
        entered++;
    return entered;
}

static void one_source_leaves_room_for_others(void)
{
    struct strangers *strangers;
    struct stranger_source *in[MAX + 1];
    uint8_t addr[16];
    int why;
    REQUIRE_INT(strangers_new(MAX, 1, &strangers), 0);
    address(addr, "192.0.2.0", 1);
    unsigned count = fill(strangers, addr, in, &why);
    CHECK_INT(count, HALF);
    CHECK_INT(why, -EDQUOT);
    for (unsigned other = 2; other < 6; other++) {
        address(addr, "192.0.2.0", other);
        unsigned more = fill(strangers, addr, in + count, &why);
        CHECK_INT(more, SHARE);
        count += more;
        CHECK_INT(why, other < 5 ? -EDQUOT : -ENOSPC);
    }
    CHECK_INT(count, MAX);
    while (count > 0)
        strangers_leave(strangers, in[--count]);
    count = fill(strangers, addr, in, &why); /* all is forgotten */
    CHECK_INT(count, HALF);
    while (count > 0)
        strangers_leave(strangers, in[--count]);
    strangers_free(strangers);
}

/* As many sources as there is room for, again and again, so that every place is used anew. */
static void sources_come_and_go(void)
{
    struct strangers *strangers;
    struct stranger_source *in[MAX], *extra;
    uint8_t addr[16];
    REQUIRE_INT(strangers_new(MAX, 2, &strangers), 0);
    for (unsigned round = 0; round < 8; round++) {
        for (unsigned i = 0; i < MAX; i++) {
            address(addr, "198.51.100.0", round * 31 + i);
            REQUIRE_INT(strangers_enter(strangers, addr, &in[i]), 0);
            for (unsigned j = 0; j < i; j++)
                CHECK(in[j] != in[i]);
        }
        address(addr, "192.0.2.0", 1);
        CHECK_INT(strangers_enter(strangers, addr, &extra), -ENOSPC);
        for (unsigned i = 0; i < MAX; i++) /* neither first nor last first */
            strangers_leave(strangers, in[(i * 29 + round) % MAX]);
    }
    strangers_free(strangers);
}

static void an_ipv6_subnet_is_one_source(void)
{
    struct strangers *strangers;
    struct stranger_source *in[2], *other;
    uint8_t addr[16];
    REQUIRE_INT(strangers_new(2, 3, &strangers), 0);
    address(addr, "2001:db8:0:1::", 1);
    REQUIRE_INT(strangers_enter(strangers, addr, &in[0]), 0);
    address(addr, "2001:db8:0:1:ffff::", 2);
    CHECK_INT(strangers_enter(strangers, addr, &in[1]), -EDQUOT);
    address(addr, "2001:db8:0:2::", 1);
    CHECK_INT(strangers_enter(strangers, addr, &other), 0);
    strangers_leave(strangers, in[0]);
    strangers_leave(strangers, other);
    strangers_free(strangers);
}

TEST_MAIN(TEST(one_source_leaves_room_for_others), TEST(sources_come_and_go),
          TEST(an_ipv6_subnet_is_one_source))
