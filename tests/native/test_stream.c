/* test_stream.c: the state table as a graph: from every state there is a way out, every outcome
 * that a state's steps can have leads somewhere, and retries cannot skip the connect. */
#include "stream.h"
#include "test.h"

static const enum stream_state none = STREAM_STATE_COUNT;

static void the_paths_there_are(void)
{
    static const struct { enum stream_state from; enum outcome outcome; enum stream_state to; }
    cases[] = {
        {STREAM_NEW, OUTCOME_PLAIN, STREAM_CONNECT},      {STREAM_NEW, OUTCOME_DONE, STREAM_HANDSHAKE},
        {STREAM_HANDSHAKE, OUTCOME_DONE, STREAM_HEADER},  {STREAM_HEADER, OUTCOME_DONE, STREAM_CONNECT},
        {STREAM_CONNECT, OUTCOME_PLAIN, STREAM_RELAY},    {STREAM_CONNECT, OUTCOME_DONE, STREAM_UP_HANDSHAKE},
        {STREAM_UP_HANDSHAKE, OUTCOME_DONE, STREAM_REPLY},{STREAM_REPLY, OUTCOME_DONE, STREAM_RELAY},
        {STREAM_CONNECT, OUTCOME_RETRY, STREAM_CONNECT},  {STREAM_UP_HANDSHAKE, OUTCOME_RETRY, STREAM_CONNECT},
        {STREAM_REPLY, OUTCOME_RETRY, STREAM_CONNECT},    {STREAM_RELAY, OUTCOME_END, STREAM_CLOSED},
        {STREAM_REFUSE, OUTCOME_END, STREAM_CLOSED},
    };
    for (size_t i = 0; i < DP_COUNT(cases); i++)
        CHECK_INT(stream_next(cases[i].from, cases[i].outcome), cases[i].to);
}

static void what_cannot_happen(void)
{
    static const enum outcome retry_or_refused[] = {OUTCOME_RETRY, OUTCOME_REFUSED};
    for (size_t i = 0; i < DP_COUNT(retry_or_refused); i++) { /* once bytes flow, or never again */
        CHECK_INT(stream_next(STREAM_RELAY, retry_or_refused[i]), none);
        CHECK_INT(stream_next(STREAM_REFUSE, retry_or_refused[i]), none);
        CHECK_INT(stream_next(STREAM_CLOSED, retry_or_refused[i]), none);
    }
    CHECK_INT(stream_next(STREAM_HANDSHAKE, OUTCOME_RETRY), none); /* the client has one chance */
    CHECK_INT(stream_next(STREAM_HEADER, OUTCOME_RETRY), none);
    CHECK_INT(stream_next(STREAM_UP_HANDSHAKE, OUTCOME_PLAIN), none);
    for (int s = 0; s < STREAM_STATE_COUNT; s++)
        CHECK_INT(stream_next(s, OUTCOME_WAIT), none);
}

/* Before bytes flow, whatever happens can be refused with a reason or just ended. */
static void every_state_has_a_way_out(void)
{
    for (int s = STREAM_NEW; s < STREAM_RELAY; s++) {
        CHECK_INT(stream_next(s, OUTCOME_REFUSED), STREAM_REFUSE);
        CHECK_INT(stream_next(s, OUTCOME_END), STREAM_CLOSED);
    }
}

/* Nothing is reached but through the client's own authentication: the graph without the handshake
 * does not lead from a mesh accept to a connect. */
static void no_way_round_the_handshake(void)
{
    bool reached[STREAM_STATE_COUNT] = {false};
    reached[stream_next(STREAM_NEW, OUTCOME_DONE)] = true;
    CHECK(reached[STREAM_HANDSHAKE]);
    for (int o = 0; o < OUTCOME_COUNT; o++) {
        enum stream_state to = stream_next(STREAM_HANDSHAKE, o);
        CHECK(to == none || to == STREAM_HEADER || to == STREAM_REFUSE || to == STREAM_CLOSED);
        to = stream_next(STREAM_HEADER, o);
        CHECK(to == none || to == STREAM_CONNECT || to == STREAM_REFUSE || to == STREAM_CLOSED);
    }
}

TEST_MAIN(TEST(the_paths_there_are), TEST(what_cannot_happen), TEST(every_state_has_a_way_out),
          TEST(no_way_round_the_handshake))
