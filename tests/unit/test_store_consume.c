#include <criterion/criterion.h>

#include "store/store.h"
#include "store_fixture.h"

static struct store_fixture fixture;

static void
setup(void)
{
    fixture_open(&fixture);
}

static void
teardown(void)
{
    fixture_close(&fixture);
}

TestSuite(store_consume, .init = setup, .fini = teardown);

static void
assert_text(struct pulled pulled, const char *text)
{
    cr_assert_eq(pulled.err, Q_OK, "%s", q_err_name(pulled.err));
    cr_assert_str_eq(pulled.text, text);
}

/* What was published is pulled, in order, and sequences are dense from 0. */
Test(store_consume, publish_then_pull)
{
    uint64_t first;
    cr_assert_eq(fixture_publish(&fixture, "orders", "a,b,c", NULL, &first), Q_OK);
    cr_assert_eq(first, 0);
    cr_assert_eq(fixture_publish(&fixture, "other", "x", NULL, &first), Q_OK);
    cr_assert_eq(first, 0);
    cr_assert_eq(fixture_publish(&fixture, "orders", "d", NULL, &first), Q_OK);
    cr_assert_eq(first, 3);
    uint64_t session = fixture_join(&fixture, "g", "c1", NULL);
    struct pulled pulled = fixture_pull(&fixture, "g", "c1", session, 100, 0);
    assert_text(pulled, "a,b,c,d");
    cr_assert_eq(pulled.run_count, 1);
    cr_assert_eq(pulled.runs[0].pull_sequence, 0);
    cr_assert_eq(pulled.unacked, 4);
    cr_assert_eq(pulled.waiting, 0);
}

/* Two groups each get everything; two consumers of one group share. */
Test(store_consume, groups_are_independent_and_consumers_share)
{
    cr_assert_eq(fixture_publish(&fixture, "orders", "a,b,c,d", NULL, NULL), Q_OK);
    uint64_t s1 = fixture_join(&fixture, "g", "c1", NULL);
    uint64_t s2 = fixture_join(&fixture, "g", "c2", NULL);
    uint64_t s3 = fixture_join(&fixture, "h", "c1", NULL);
    assert_text(fixture_pull(&fixture, "g", "c1", s1, 2, 0), "a,b");
    assert_text(fixture_pull(&fixture, "g", "c2", s2, 10, 0), "c,d");
    assert_text(fixture_pull(&fixture, "h", "c1", s3, 10, 0), "a,b,c,d");
}

/* A pull that names what it received gets what comes after; one that does not gets it again. */
Test(store_consume, what_did_not_arrive_comes_again)
{
    cr_assert_eq(fixture_publish(&fixture, "orders", "a,b,c,d", NULL, NULL), Q_OK);
    uint64_t session = fixture_join(&fixture, "g", "c", NULL);
    assert_text(fixture_pull(&fixture, "g", "c", session, 2, 0), "a,b");
    struct pulled again = fixture_pull(&fixture, "g", "c", session, 10, 0);
    assert_text(again, "a,b");
    cr_assert_eq(again.runs[0].attempt, 1, "a repeated answer is no new attempt");
    assert_text(fixture_pull(&fixture, "g", "c", session, 10, 2), "c,d");
    assert_text(fixture_pull(&fixture, "g", "c", session, 10, 1), "b,c,d");
}

/* Acks come in any order, and what is left in between stays in the consumer's hands. */
Test(store_consume, acks_in_any_order)
{
    cr_assert_eq(fixture_publish(&fixture, "orders", "a,b,c,d,e", NULL, NULL), Q_OK);
    uint64_t session = fixture_join(&fixture, "g", "c", NULL);
    assert_text(fixture_pull(&fixture, "g", "c", session, 10, 0), "a,b,c,d,e");
    cr_assert_eq(fixture_ack(&fixture, "g", "c", session, 3, 3), Q_OK);
    cr_assert_eq(fixture_ack(&fixture, "g", "c", session, 0, 1), Q_OK);
    struct pulled left = fixture_pull(&fixture, "g", "c", session, 10, 0);
    assert_text(left, "c,e");
    cr_assert_eq(left.runs[0].pull_sequence, 2);
    cr_assert_eq(left.runs[1].pull_sequence, 4);
    cr_assert_eq(fixture_ack(&fixture, "g", "c", session, 0, 4), Q_OK, "acking twice is fine");
    cr_assert_eq(fixture_pull(&fixture, "g", "c", session, 10, 0).run_count, 0);
}

/* An ack of what was never handed out is refused and changes nothing. */
Test(store_consume, ack_of_the_future_is_refused)
{
    cr_assert_eq(fixture_publish(&fixture, "orders", "a,b", NULL, NULL), Q_OK);
    uint64_t session = fixture_join(&fixture, "g", "c", NULL);
    assert_text(fixture_pull(&fixture, "g", "c", session, 1, 0), "a");
    cr_assert_eq(fixture_ack(&fixture, "g", "c", session, 0, 1), Q_INVALID);
    assert_text(fixture_pull(&fixture, "g", "c", session, 10, 0), "a");
}

/* A consumer that comes back under its id gets its un-acked messages again, and its old session
 * can do nothing any more. */
Test(store_consume, a_new_session_replaces_the_old_one)
{
    cr_assert_eq(fixture_publish(&fixture, "orders", "a,b", NULL, NULL), Q_OK);
    uint64_t old = fixture_join(&fixture, "g", "c", NULL);
    assert_text(fixture_pull(&fixture, "g", "c", old, 10, 0), "a,b");
    uint64_t session = fixture_join(&fixture, "g", "c", NULL);
    cr_assert_neq(session, old);
    cr_assert_eq(fixture_pull(&fixture, "g", "c", old, 10, 0).err, Q_CONSUMER_REPLACED);
    cr_assert_eq(fixture_ack(&fixture, "g", "c", old, 0, 0), Q_CONSUMER_REPLACED);
    assert_text(fixture_pull(&fixture, "g", "c", session, 10, 0), "a,b");
}

/* What a silent consumer held goes to the others after the time-out, as a new attempt; its late
 * ack counts while nobody else has the message, and is EXPIRED after that. */
Test(store_consume, a_dead_consumers_messages_go_to_others)
{
    cr_assert_eq(fixture_publish(&fixture, "orders", "a,b,c", NULL, NULL), Q_OK);
    uint64_t dead = fixture_join(&fixture, "g", "dead", NULL);
    assert_text(fixture_pull(&fixture, "g", "dead", dead, 10, 0), "a,b,c");
    q_clock_manual_advance_ns(&fixture.clock, 31ull * Q_NS_PER_S);
    fixture_settle(&fixture);
    cr_assert_eq(fixture_pull(&fixture, "g", "dead", dead, 10, 0).err, Q_NO_SESSION);
    uint64_t back = fixture_join(&fixture, "g", "dead", NULL);
    cr_assert_eq(fixture_ack(&fixture, "g", "dead", back, 1, 1), Q_OK, "late, and in time");
    uint64_t session = fixture_join(&fixture, "g", "c", NULL);
    struct pulled pulled = fixture_pull(&fixture, "g", "c", session, 10, 0);
    assert_text(pulled, "a,c");
    cr_assert_eq(pulled.runs[0].attempt, 2);
    cr_assert_eq(fixture_ack(&fixture, "g", "dead", back, 0, 0), Q_EXPIRED);
    cr_assert_eq(fixture_ack(&fixture, "g", "c", session, 0, 1), Q_OK);
    cr_assert_eq(fixture_pull(&fixture, "g", "c", session, 10, 2).run_count, 0);
}

/* A consumer that says goodbye hands back what it holds at once, and that is no attempt. */
Test(store_consume, leaving_hands_back_at_once)
{
    cr_assert_eq(fixture_publish(&fixture, "orders", "a,b", NULL, NULL), Q_OK);
    uint64_t s1 = fixture_join(&fixture, "g", "c1", NULL);
    assert_text(fixture_pull(&fixture, "g", "c1", s1, 10, 0), "a,b");
    struct qlog_session leave = {
        .request = { .kind = QLOG_LEAVE },
        .who = {
            .subject = q_bytes_from_text("orders"),
            .group = q_bytes_from_text("g"),
            .consumer = q_bytes_from_text("c1"),
            .session = s1,
        },
    };
    cr_assert_eq(fixture_run(&fixture, &leave.request), Q_OK);
    uint64_t s2 = fixture_join(&fixture, "g", "c2", NULL);
    struct pulled pulled = fixture_pull(&fixture, "g", "c2", s2, 10, 0);
    assert_text(pulled, "a,b");
    cr_assert_eq(pulled.runs[0].attempt, 1);
}

/* A group with a tag gets what carries it. */
Test(store_consume, tags_filter_at_the_server)
{
    cr_assert_eq(fixture_publish(&fixture, "orders", "a,b", "red", NULL), Q_OK);
    cr_assert_eq(fixture_publish(&fixture, "orders", "c", "blue", NULL), Q_OK);
    cr_assert_eq(fixture_publish(&fixture, "orders", "d", NULL, NULL), Q_OK);
    cr_assert_eq(fixture_publish(&fixture, "orders", "e", "red", NULL), Q_OK);
    uint64_t session = fixture_join(&fixture, "g", "c", "red");
    /* What is read from the disk may come in two answers. */
    assert_text(fixture_pull(&fixture, "g", "c", session, 2, 0), "a,b");
    struct pulled pulled = fixture_pull(&fixture, "g", "c", session, 10, 2);
    assert_text(pulled, "e");
    cr_assert_eq(pulled.runs[0].pull_sequence, 2, "skipped messages take no pull sequence");
    cr_assert_neq(fixture_join(&fixture, "g", "c2", "red"), 0);
}

struct parked {
    struct qlog_pull pull;
    struct qlog_run runs[4];
    struct qlog_piece pieces[4];
    unsigned answers;
    enum q_err err;
};

static void
on_parked(struct qlog_request *request, enum q_err err)
{
    struct parked *parked = request->context;
    parked->answers++;
    parked->err = err;
}

static void
park(struct parked *parked, const char *group, const char *consumer, uint64_t session)
{
    *parked = (struct parked){
        .pull = {
            .request = { .kind = QLOG_PULL, .done = on_parked, .context = parked },
            .who = {
                .subject = q_bytes_from_text("orders"),
                .group = q_bytes_from_text(group),
                .consumer = q_bytes_from_text(consumer),
                .session = session,
            },
            .messages_max = 10,
            .bytes_max = 65536,
            .wait_ns = 5ull * Q_NS_PER_S,
            .runs = parked->runs,
            .runs_max = 4,
            .pieces = parked->pieces,
            .pieces_max = 4,
        },
    };
    cr_assert_eq(qlog_store_submit(fixture.store, &parked->pull.request), Q_OK);
    fixture_settle(&fixture);
}

/* A parked pull is answered by news of its subject only, and at the latest when its time is over. */
Test(store_consume, long_poll)
{
    uint64_t session = fixture_join(&fixture, "g", "c", NULL);
    struct parked parked;
    park(&parked, "g", "c", session);
    cr_assert_eq(fixture_publish(&fixture, "other", "x", NULL, NULL), Q_OK);
    fixture_settle(&fixture);
    cr_assert_eq(parked.answers, 0);
    cr_assert_eq(fixture_publish(&fixture, "orders", "a", NULL, NULL), Q_OK);
    fixture_settle(&fixture);
    cr_assert_eq(parked.answers, 1);
    cr_assert_eq(parked.pull.run_count, 1);
    qlog_pull_release(&parked.pull);

    park(&parked, "g", "c", session);
    parked.pull.received = 1;
    cr_assert_eq(parked.answers, 1, "un-received messages come again at once");
    qlog_pull_release(&parked.pull);
    cr_assert_eq(fixture_ack(&fixture, "g", "c", session, 0, 0), Q_OK);
    park(&parked, "g", "c", session);
    cr_assert_eq(parked.answers, 0);
    q_clock_manual_advance_ns(&fixture.clock, 6ull * Q_NS_PER_S);
    fixture_settle(&fixture);
    cr_assert_eq(parked.answers, 1);
    cr_assert_eq(parked.err, Q_OK);
    cr_assert_eq(parked.pull.run_count, 0);
}

/* A newer pull of the session replaces a parked one; a cancel ends it; both answer it once. */
Test(store_consume, a_parked_pull_ends_once)
{
    uint64_t session = fixture_join(&fixture, "g", "c", NULL);
    struct parked first;
    struct parked second;
    park(&first, "g", "c", session);
    park(&second, "g", "c", session);
    cr_assert_eq(first.answers, 1);
    cr_assert_eq(first.pull.run_count, 0);
    cr_assert_eq(second.answers, 0);
    struct qlog_cancel cancel = { .request = { .kind = QLOG_CANCEL }, .target = &second.pull };
    cr_assert_eq(fixture_run(&fixture, &cancel.request), Q_OK);
    cr_assert_eq(second.answers, 1);
    cr_assert_eq(second.err, Q_STOPPING);
    cr_assert_eq(fixture_run(&fixture, &cancel.request), Q_OK, "too late is fine");
    cr_assert_eq(second.answers, 1);
}

/* What a leaving consumer held wakes the parked pull of another. */
Test(store_consume, released_messages_wake_parked_pulls)
{
    cr_assert_eq(fixture_publish(&fixture, "orders", "a", NULL, NULL), Q_OK);
    uint64_t s1 = fixture_join(&fixture, "g", "c1", NULL);
    uint64_t s2 = fixture_join(&fixture, "g", "c2", NULL);
    assert_text(fixture_pull(&fixture, "g", "c1", s1, 10, 0), "a");
    struct parked parked;
    park(&parked, "g", "c2", s2);
    cr_assert_eq(parked.answers, 0);
    q_clock_manual_advance_ns(&fixture.clock, 3ull * Q_NS_PER_S);
    struct qlog_session leave = { .request = { .kind = QLOG_LEAVE }, .who = parked.pull.who };
    leave.who.consumer = q_bytes_from_text("c1");
    leave.who.session = s1;
    cr_assert_eq(fixture_run(&fixture, &leave.request), Q_OK);
    fixture_settle(&fixture);
    cr_assert_eq(parked.answers, 1);
    cr_assert_eq(parked.pull.run_count, 1);
    qlog_pull_release(&parked.pull);
}

/* A consumer that holds its window full gets no more, is told so, and goes on after an ack. */
Test(store_consume, the_window_is_bounded)
{
    fixture.options.window_messages_max = 2;
    fixture_reopen(&fixture);
    cr_assert_eq(fixture_publish(&fixture, "orders", "a,b,c", NULL, NULL), Q_OK);
    uint64_t session = fixture_join(&fixture, "g", "c", NULL);
    assert_text(fixture_pull(&fixture, "g", "c", session, 10, 0), "a,b");
    cr_assert_eq(fixture_pull(&fixture, "g", "c", session, 10, 2).err, Q_WINDOW_FULL);
    cr_assert_eq(fixture_ack(&fixture, "g", "c", session, 0, 0), Q_OK);
    assert_text(fixture_pull(&fixture, "g", "c", session, 10, 2), "c");
}

/* A publish in a mode that needs a replica is refused by name, before anything is stored. */
Test(store_consume, modes_are_never_downgraded)
{
    fixture.options.mode = QLOG_MODE_ASYNC;
    fixture_reopen(&fixture);
    uint64_t first;
    cr_assert_eq(fixture_publish(&fixture, "orders", "a", NULL, &first), Q_OK);
    uint64_t session = fixture_join(&fixture, "g", "c", NULL);
    assert_text(fixture_pull(&fixture, "g", "c", session, 10, 0), "a");
}
