/*
 * Groups: what becomes of messages that fail, take too long, are for others, or wait for their key;
 * and what is done to a group as a whole. Each is asked again after a crash.
 */
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
    for (uint32_t i = 0; i < fixture.store->group_count; i++)
        if (fixture.store->groups[i] != NULL) ql_group_check(fixture.store->groups[i]);
    fixture_close(&fixture);
}

TestSuite(store_groups, .init = setup, .fini = teardown);

static void
assert_text(struct pulled pulled, const char *text)
{
    cr_assert_eq(pulled.err, Q_OK, "%s", q_err_name(pulled.err));
    cr_assert_str_eq(pulled.text, text);
}

static void
advance(uint64_t ms)
{
    q_clock_manual_advance_ns(&fixture.clock, ms * Q_NS_PER_MS);
    fixture_settle(&fixture);
}

static enum q_err
control(struct qlog_control *request)
{
    request->request.kind = QLOG_CONTROL;
    request->subject = q_bytes_from_text(fixture_subject);
    if (request->group.size == 0) request->group = q_bytes_from_text("g");
    return fixture_run(&fixture, &request->request);
}

static struct qlog_lag
lag_of(const char *group)
{
    struct qlog_lag lag = {
        .request = { .kind = QLOG_LAG },
        .subject = q_bytes_from_text(fixture_subject),
        .group = q_bytes_from_text(group),
    };
    cr_assert_eq(fixture_run(&fixture, &lag.request), Q_OK);
    return lag;
}

/* The state is the same after a crash, at rest: pull sequences aside, which jump. */
static void
crash_keeps_lag(const char *group)
{
    struct qlog_lag before = lag_of(group);
    fixture_crash(&fixture);
    struct qlog_lag after = lag_of(group);
    cr_assert_eq(after.cursor, before.cursor);
    cr_assert_eq(after.epoch, before.epoch);
    cr_assert_eq(after.paused, before.paused);
    cr_assert_eq(after.in_flight, before.in_flight);
    cr_assert_eq(after.pending_retry, before.pending_retry);
    cr_assert_eq(after.pending_released, before.pending_released);
    cr_assert_eq(after.pending_key, before.pending_key);
    cr_assert_eq(after.pending_filter, before.pending_filter);
    cr_assert_eq(after.skipped, before.skipped);
    cr_assert_eq(after.filter_count, before.filter_count);
    cr_assert_eq(after.settings.attempts_max, before.settings.attempts_max);
}

/* A failed message comes again after its back-off, as the next attempt; others flow meanwhile. */
Test(store_groups, a_failed_message_waits)
{
    cr_assert_eq(fixture_publish(&fixture, "orders", "a,b,c", NULL, NULL), Q_OK);
    uint64_t session = fixture_join(&fixture, "g", "c", NULL);
    assert_text(fixture_pull(&fixture, "g", "c", session, 10, 0), "a,b,c");
    cr_assert_eq(fixture_nack(&fixture, "g", "c", session, 1, 1, QLOG_DELAY_BACKOFF, "no"), Q_OK);
    cr_assert_eq(fixture_ack(&fixture, "g", "c", session, 0, 0), Q_OK);
    struct qlog_lag lag = lag_of("g");
    cr_assert_eq(lag.pending_retry, 1);
    cr_assert_eq(lag.in_flight, 1);
    cr_assert_eq(lag.ready, 0);
    cr_assert_eq(lag.oldest, 1);
    advance(4999);
    assert_text(fixture_pull(&fixture, "g", "c", session, 10, 3), "");
    crash_keeps_lag("g");
    cr_assert_eq(fixture_ack(&fixture, "g", "c", session, 2, 2), Q_OK);
    advance(2);
    struct pulled again = fixture_pull(&fixture, "g", "c", session, 10, 3);
    assert_text(again, "b");
    cr_assert_eq(again.runs[0].attempt, 2);
    /* The second time it takes longer; a delay of one's own counts instead. */
    uint64_t at = again.runs[0].pull_sequence;
    cr_assert_eq(fixture_nack(&fixture, "g", "c", session, at, at, 60000, ""), Q_OK);
    advance(59000);
    session = fixture_join(&fixture, "g", "c", NULL);
    assert_text(fixture_pull(&fixture, "g", "c", session, 10, at + 1), "");
    advance(1001);
    again = fixture_pull(&fixture, "g", "c", session, 10, at + 1);
    assert_text(again, "b");
    cr_assert_eq(again.runs[0].attempt, 3);
    cr_assert_eq(
        fixture_nack(&fixture, "g", "c", session, at, at, 0, ""), Q_EXPIRED,
        "what it does not hold any more");
}

/* A delay must end before the message may be dropped. */
Test(store_groups, a_delay_may_be_too_long)
{
    cr_assert_eq(fixture_publish(&fixture, "orders", "a", NULL, NULL), Q_OK);
    uint64_t session = fixture_join(&fixture, "g", "c", NULL);
    assert_text(fixture_pull(&fixture, "g", "c", session, 10, 0), "a");
    uint64_t day_ms = 86400ull * 1000;
    cr_assert_eq(fixture_nack(&fixture, "g", "c", session, 0, 0, 4 * day_ms, ""), Q_DELAY_TOO_LONG);
    cr_assert_eq(lag_of("g").in_flight, 1, "nothing was changed");
    cr_assert_eq(fixture_nack(&fixture, "g", "c", session, 0, 0, 2 * day_ms, ""), Q_OK);
}

/* A waiting pull is answered when a failed message is due. */
Test(store_groups, what_is_due_wakes_a_pull)
{
    cr_assert_eq(fixture_publish(&fixture, "orders", "a", NULL, NULL), Q_OK);
    uint64_t session = fixture_join(&fixture, "g", "c", NULL);
    assert_text(fixture_pull(&fixture, "g", "c", session, 10, 0), "a");
    cr_assert_eq(fixture_nack(&fixture, "g", "c", session, 0, 0, 2000, ""), Q_OK);
    struct fixture_parked parked;
    fixture_park(&fixture, &parked, "g", "c", session, 1);
    cr_assert_eq(parked.answers, 0);
    advance(1999);
    cr_assert_eq(parked.answers, 0);
    advance(1);
    cr_assert_eq(parked.answers, 1);
    cr_assert_eq(parked.pull.run_count, 1);
    cr_assert_eq(parked.runs[0].attempt, 2);
    qlog_pull_release(&parked.pull);
}

/* What is not acknowledged in its invisible time goes to others; a late ack counts until then. */
Test(store_groups, invisible_time)
{
    cr_assert_eq(fixture_publish(&fixture, "orders", "a,b", NULL, NULL), Q_OK);
    uint64_t s1 = fixture_join(&fixture, "g", "c1", NULL);
    uint64_t s2 = fixture_join(&fixture, "g", "c2", NULL);
    fixture.pull_extra.invisible_ms = 1000;
    assert_text(fixture_pull(&fixture, "g", "c1", s1, 10, 0), "a,b");
    fixture.pull_extra.invisible_ms = 0;
    advance(999);
    assert_text(fixture_pull(&fixture, "g", "c2", s2, 10, 0), "");
    fixture_crash(&fixture);
    advance(2);
    cr_assert_eq(lag_of("g").pending_released, 2);
    cr_assert_eq(fixture_ack(&fixture, "g", "c1", s1, 0, 0), Q_OK, "nobody else has it");
    struct pulled pulled = fixture_pull(&fixture, "g", "c2", s2, 10, 0);
    assert_text(pulled, "b");
    cr_assert_eq(pulled.runs[0].attempt, 2);
    cr_assert_eq(fixture_ack(&fixture, "g", "c1", s1, 1, 1), Q_EXPIRED);
}

/* At most once: given, and never again. */
Test(store_groups, at_most_once)
{
    cr_assert_eq(fixture_publish(&fixture, "orders", "a,b", NULL, NULL), Q_OK);
    uint64_t session = fixture_join(&fixture, "g", "c", NULL);
    fixture.pull_extra.once = true;
    assert_text(fixture_pull(&fixture, "g", "c", session, 1, 0), "a");
    assert_text(fixture_pull(&fixture, "g", "c", session, 1, 0), "b");
    cr_assert_eq(lag_of("g").in_flight, 0);
    fixture_crash(&fixture);
    assert_text(fixture_pull(&fixture, "g", "c", session, 10, 0), "");
}

/* Members may differ: each message goes to one that takes it, also after a crash, and what nobody
 * takes is skipped and counted. */
Test(store_groups, members_with_filters_of_their_own)
{
    uint64_t red = fixture_join(&fixture, "g", "red", "red");
    uint64_t blue = fixture_join(&fixture, "g", "blue", "blue");
    cr_assert_eq(fixture_publish(&fixture, "orders", "a", "blue", NULL), Q_OK);
    cr_assert_eq(fixture_publish(&fixture, "orders", "b", "red", NULL), Q_OK);
    cr_assert_eq(fixture_publish(&fixture, "orders", "c", "green", NULL), Q_OK);
    cr_assert_eq(fixture_publish(&fixture, "orders", "d", "blue", NULL), Q_OK);
    assert_text(fixture_pull(&fixture, "g", "red", red, 10, 0), "b");
    cr_assert_eq(lag_of("g").pending_filter, 2);
    cr_assert_eq(lag_of("g").skipped, 1);
    crash_keeps_lag("g");
    /* What is read from the disk may come in two answers. */
    struct pulled pulled = fixture_pull(&fixture, "g", "blue", blue, 1, 0);
    assert_text(pulled, "a");
    cr_assert_eq(pulled.runs[0].attempt, 1, "waiting for one's filter is no attempt");
    assert_text(
        fixture_pull(&fixture, "g", "blue", blue, 1, pulled.runs[0].pull_sequence + 1), "d");
    cr_assert_eq(lag_of("g").filter_count, 2);
}

/* A filter is kept for a while after its last member left, while the group has others. */
Test(store_groups, a_filter_is_kept_for_a_while)
{
    uint64_t red = fixture_join(&fixture, "g", "red", "red");
    uint64_t blue = fixture_join(&fixture, "g", "blue", "blue");
    cr_assert_eq(fixture_leave(&fixture, "g", "blue", blue), Q_OK);
    cr_assert_eq(fixture_publish(&fixture, "orders", "a", "blue", NULL), Q_OK);
    assert_text(fixture_pull(&fixture, "g", "red", red, 10, 0), "");
    cr_assert_eq(lag_of("g").pending_filter, 1);
    for (unsigned i = 0; i < 21; i++) {
        advance(29 * 1000);
        cr_assert_eq(fixture_keep_alive(&fixture, "g", "red", red), Q_OK);
    }
    cr_assert_eq(lag_of("g").filter_count, 1);
    cr_assert_eq(lag_of("g").pending_filter, 0);
    cr_assert_eq(lag_of("g").skipped, 1);
    blue = fixture_join(&fixture, "g", "blue", "blue");
    assert_text(fixture_pull(&fixture, "g", "blue", blue, 10, 0), "");
}

/* A group that nobody uses keeps its filters, and what waits for them. */
Test(store_groups, a_group_without_members_waits)
{
    uint64_t red = fixture_join(&fixture, "g", "red", "red");
    cr_assert_eq(fixture_publish(&fixture, "orders", "a", "red", NULL), Q_OK);
    assert_text(fixture_pull(&fixture, "g", "red", red, 10, 0), "a");
    cr_assert_eq(fixture_leave(&fixture, "g", "red", red), Q_OK);
    advance(86400 * 1000);
    fixture_crash(&fixture);
    advance(86400 * 1000);
    red = fixture_join(&fixture, "g", "other", "red");
    assert_text(fixture_pull(&fixture, "g", "other", red, 10, 0), "a");
}

/* While a message of a key is in flight, later ones of it wait and all others flow. */
Test(store_groups, one_key_at_a_time)
{
    uint64_t s1 = fixture_join(&fixture, "g", "c1", NULL);
    uint64_t s2 = fixture_join(&fixture, "g", "c2", NULL);
    fixture_publish_keyed(&fixture, "orders", "a1:A,b1:B,a2:A,n,b2:B,a3:A");
    assert_text(fixture_pull(&fixture, "g", "c1", s1, 1, 0), "a1");
    assert_text(fixture_pull(&fixture, "g", "c2", s2, 10, 0), "b1,n,b2");
    cr_assert_eq(lag_of("g").pending_key, 2);
    crash_keeps_lag("g");
    assert_text(fixture_pull(&fixture, "g", "c2", s2, 10, 4), "");
    cr_assert_eq(fixture_ack(&fixture, "g", "c1", s1, 0, 0), Q_OK);
    assert_text(fixture_pull(&fixture, "g", "c2", s2, 10, 4), "a2,a3");
}

/* One that comes again is given with its batch, of which nothing else may be given. */
Test(store_groups, what_is_left_of_a_batch_is_busy)
{
    uint64_t session = fixture_join(&fixture, "g", "c", NULL);
    fixture_publish_keyed(&fixture, "orders", "a:A,b1:B,b2:B");
    assert_text(fixture_pull(&fixture, "g", "c", session, 2, 0), "a,b1");
    cr_assert_eq(fixture_nack(&fixture, "g", "c", session, 0, 0, 0, ""), Q_OK);
    assert_text(fixture_pull(&fixture, "g", "c", session, 10, 2), "a");
    cr_assert_eq(fixture_ack(&fixture, "g", "c", session, 1, 1), Q_OK);
    assert_text(fixture_pull(&fixture, "g", "c", session, 10, 3), "b2");
}

/* Best effort: a message that fails waits alone. Strict: later ones of its key wait with it. */
Test(store_groups, what_a_failure_does_to_its_key)
{
    for (unsigned strict = 0; strict < 2; strict++) {
        const char *group = strict ? "strict" : "g";
        uint64_t s1 = fixture_join(&fixture, group, "c1", NULL);
        uint64_t s2 = fixture_join(&fixture, group, "c2", NULL);
        struct qlog_control settings = { .kind = QLOG_CONTROL_SETTINGS };
        settings.group = q_bytes_from_text(group);
        settings.settings.strict = strict;
        cr_assert_eq(control(&settings), Q_OK);
        if (!strict) fixture_publish_keyed(&fixture, "orders", "a1:A,a2:A,a3:A");
        struct pulled first = fixture_pull(&fixture, group, "c1", s1, 2, 0);
        uint64_t at = first.runs[0].pull_sequence;
        assert_text(first, "a1,a2");
        cr_assert_eq(fixture_nack(&fixture, group, "c1", s1, at, at, 1000, ""), Q_OK);
        cr_assert_eq(lag_of(group).in_flight, strict ? 0 : 1);
        assert_text(fixture_pull(&fixture, group, "c2", s2, 10, 0), "");
        crash_keeps_lag(group);
        if (strict) {
            cr_assert_eq(
                fixture_ack(&fixture, group, "c1", s1, at + 1, at + 1), Q_OK,
                "an ack on its way counts");
        } else {
            cr_assert_eq(fixture_ack(&fixture, group, "c1", s1, at + 1, at + 1), Q_OK);
            assert_text(fixture_pull(&fixture, group, "c2", s2, 10, 0), "a3");
        }
        advance(1001);
        struct pulled pulled = fixture_pull(&fixture, group, "c1", s1, 10, at + 2);
        assert_text(pulled, strict ? "a1,a3" : "");
        if (strict) cr_assert_eq(pulled.runs[0].attempt, 2);
        if (strict) cr_assert_eq(pulled.runs[1].attempt, 1);
    }
}

/* The cursor stands still when too much is pending, and lag says why. */
Test(store_groups, a_full_pending_set_holds_the_cursor)
{
    uint64_t session = fixture_join(&fixture, "g", "c", NULL);
    struct qlog_control settings = { .kind = QLOG_CONTROL_SETTINGS };
    settings.settings.pending_max = 2;
    cr_assert_eq(control(&settings), Q_OK);
    cr_assert_eq(fixture_publish(&fixture, "orders", "a,b,c,d", NULL, NULL), Q_OK);
    assert_text(fixture_pull(&fixture, "g", "c", session, 2, 0), "a,b");
    cr_assert_eq(fixture_nack(&fixture, "g", "c", session, 0, 1, 10000, ""), Q_OK);
    assert_text(fixture_pull(&fixture, "g", "c", session, 10, 2), "");
    cr_assert_eq(lag_of("g").held, QLOG_HELD_RETRY);
    cr_assert_eq(lag_of("g").waiting, 2);
    advance(10000);
    assert_text(fixture_pull(&fixture, "g", "c", session, 10, 2), "a,b");
    assert_text(fixture_pull(&fixture, "g", "c", session, 10, 4), "c,d");
}

/* Pause, resume, seek, skip, delete. */
Test(store_groups, control)
{
    cr_assert_eq(fixture_publish(&fixture, "orders", "a,b,c,d", NULL, NULL), Q_OK);
    uint64_t session = fixture_join(&fixture, "g", "c", NULL);
    assert_text(fixture_pull(&fixture, "g", "c", session, 2, 0), "a,b");
    struct qlog_control request = { .kind = QLOG_CONTROL_PAUSE };
    cr_assert_eq(control(&request), Q_OK);
    assert_text(fixture_pull(&fixture, "g", "c", session, 10, 2), "");
    cr_assert_eq(lag_of("g").held, QLOG_HELD_PAUSED);
    crash_keeps_lag("g");
    request.kind = QLOG_CONTROL_RESUME;
    cr_assert_eq(control(&request), Q_OK);
    struct qlog_control skip = { .kind = QLOG_CONTROL_SKIP, .range = { 1, 2 } };
    cr_assert_eq(control(&skip), Q_OK);
    cr_assert_eq(skip.affected, 2);
    struct pulled pulled = fixture_pull(&fixture, "g", "c", session, 10, 2);
    assert_text(pulled, "d");
    struct qlog_control seek = { .kind = QLOG_CONTROL_SEEK, .preview = true };
    cr_assert_eq(control(&seek), Q_OK);
    cr_assert_eq(seek.affected, 2);
    cr_assert_eq(lag_of("g").in_flight, 2);
    seek.preview = false;
    cr_assert_eq(control(&seek), Q_OK);
    cr_assert_eq(seek.epoch, 1);
    crash_keeps_lag("g");
    cr_assert_eq(fixture_ack(&fixture, "g", "c", session, 0, 0), Q_EXPIRED);
    pulled = fixture_pull(&fixture, "g", "c", session, 10, 0);
    assert_text(pulled, "a,b,c,d");
    cr_assert_eq(pulled.runs[0].attempt, 1);
    struct qlog_control resend = { .kind = QLOG_CONTROL_RESEND, .range = { 2, 3 } };
    uint64_t at = pulled.runs[0].pull_sequence;
    cr_assert_eq(fixture_ack(&fixture, "g", "c", session, at, at + 3), Q_OK);
    cr_assert_eq(control(&resend), Q_OK);
    cr_assert_eq(resend.affected, 2);
    assert_text(fixture_pull(&fixture, "g", "c", session, 10, at + 4), "c,d");
    struct qlog_control gone = { .kind = QLOG_CONTROL_DELETE };
    cr_assert_eq(control(&gone), Q_OK);
    cr_assert_eq(fixture_pull(&fixture, "g", "c", session, 10, 0).err, Q_NOT_FOUND);
    fixture_crash(&fixture);
    cr_assert_eq(control(&gone), Q_NOT_FOUND);
    session = fixture_join(&fixture, "g", "c", NULL);
    assert_text(fixture_pull(&fixture, "g", "c", session, 10, 0), "a,b,c,d");
}

/* A pull that wants more waits for more, and takes what is there when its time is over. */
Test(store_groups, least_messages)
{
    uint64_t session = fixture_join(&fixture, "g", "c", NULL);
    cr_assert_eq(fixture_publish(&fixture, "orders", "a", NULL, NULL), Q_OK);
    fixture.pull_extra.messages_min = 3;
    struct fixture_parked parked;
    fixture_park(&fixture, &parked, "g", "c", session, 0);
    cr_assert_eq(parked.answers, 0);
    cr_assert_eq(fixture_publish(&fixture, "orders", "b,c", NULL, NULL), Q_OK);
    fixture_settle(&fixture);
    cr_assert_eq(parked.answers, 1);
    cr_assert_eq(parked.runs[0].count, 3);
    qlog_pull_release(&parked.pull);
    cr_assert_eq(fixture_publish(&fixture, "orders", "d", NULL, NULL), Q_OK);
    fixture_park(&fixture, &parked, "g", "c", session, 3);
    cr_assert_eq(parked.answers, 0);
    advance(5001);
    cr_assert_eq(parked.answers, 1);
    cr_assert_eq(parked.runs[0].count, 1);
    qlog_pull_release(&parked.pull);
}

/* A filter looks at so many in one try, and what it found by then is given: it is not looked at again. */
Test(store_groups, least_messages_of_a_sparse_filter)
{
    uint64_t session = fixture_join(&fixture, "g", "c", "red");
    cr_assert_eq(fixture_publish(&fixture, "orders", "a", "red", NULL), Q_OK);
    char many[2 * 500] = "x";
    for (size_t i = 1; i < sizeof(many) - 1; i++)
        many[i] = i % 2 == 0 ? 'x' : ',';
    for (unsigned i = 0; i < 42; i++)
        cr_assert_eq(fixture_publish(&fixture, "orders", many, "blue", NULL), Q_OK);
    cr_assert_eq(fixture_publish(&fixture, "orders", "b", "red", NULL), Q_OK);
    fixture.pull_extra.messages_min = 2;
    struct fixture_parked parked;
    fixture_park(&fixture, &parked, "g", "c", session, 0);
    cr_assert_eq(parked.answers, 1);
    cr_assert_eq(parked.runs[0].count, 1);
    qlog_pull_release(&parked.pull);
    assert_text(fixture_pull(&fixture, "g", "c", session, 10, 1), "b");
}

/* Where a group begins. */
Test(store_groups, starts)
{
    cr_assert_eq(fixture_publish(&fixture, "orders", "a,b", NULL, NULL), Q_OK);
    advance(1000);
    uint64_t noon = fixture.clock.wall_ms;
    cr_assert_eq(fixture_publish(&fixture, "orders", "c", NULL, NULL), Q_OK);
    (void)fixture_join(&fixture, "g", "c", NULL);
    struct qlog_control seek = { .kind = QLOG_CONTROL_SEEK, .start = QLOG_START_TIME, .at = noon };
    cr_assert_eq(control(&seek), Q_OK);
    cr_assert_eq(seek.cursor, 2);
    seek.start = QLOG_START_SEQUENCE;
    seek.at = 1;
    cr_assert_eq(control(&seek), Q_OK);
    cr_assert_eq(seek.cursor, 1);
    seek.start = QLOG_START_LATEST;
    cr_assert_eq(control(&seek), Q_OK);
    cr_assert_eq(seek.cursor, 3);
    seek.start = QLOG_START_EARLIEST;
    cr_assert_eq(control(&seek), Q_OK);
    cr_assert_eq(seek.cursor, 0);
}

/* What has no attempts left becomes a dead letter, which tells what became of it. */
Test(store_groups, dead_letters)
{
    cr_assert_eq(fixture_publish(&fixture, "orders", "a,b", "red", NULL), Q_OK);
    uint64_t session = fixture_join(&fixture, "g", "c", NULL);
    struct qlog_control settings = { .kind = QLOG_CONTROL_SETTINGS };
    settings.settings.attempts_max = 2;
    cr_assert_eq(control(&settings), Q_OK);
    struct pulled pulled = fixture_pull(&fixture, "g", "c", session, 1, 0);
    assert_text(pulled, "a");
    cr_assert_eq(fixture_nack(&fixture, "g", "c", session, 0, 0, 0, "first"), Q_OK);
    pulled = fixture_pull(&fixture, "g", "c", session, 1, 1);
    assert_text(pulled, "a");
    cr_assert_eq(pulled.runs[0].attempt, 2);
    cr_assert_eq(fixture_nack(&fixture, "g", "c", session, 1, 1, 0, "no stock"), Q_OK);
    for (unsigned i = 0; i < 1000 && lag_of("g").dead == 0; i++)
        fixture_settle(&fixture);
    struct qlog_lag lag = lag_of("g");
    cr_assert_eq(lag.dead, 1);
    cr_assert_eq(lag.pending_dying, 0);
    fixture_crash(&fixture);
    cr_assert_eq(lag_of("g").dead, 1);
    struct ql_subject *subject;
    struct q_bytes name = q_bytes_from_text("%DEAD_RETRY%orders%g");
    cr_assert_eq(ql_index_find(&fixture.store->index, name, &subject), Q_OK);
    cr_assert_eq(subject->next_sequence, 1);
    struct qlog_control resend = { .kind = QLOG_CONTROL_RESEND, .range = { 0, 0 } };
    enum q_err err;
    while ((err = control(&resend)) == Q_BUSY)
        fixture_settle(&fixture);
    cr_assert_eq(err, Q_OK);
    pulled = fixture_pull(&fixture, "g", "c", session, 1, 2);
    assert_text(pulled, "a");
    cr_assert_eq(pulled.runs[0].attempt, 1);
}

/* One negative ack over several messages: each of their dead letters tells its text. */
Test(store_groups, several_die_of_one_error)
{
    cr_assert_eq(fixture_publish(&fixture, "orders", "a,b,c,d", NULL, NULL), Q_OK);
    uint64_t session = fixture_join(&fixture, "g", "c", NULL);
    struct qlog_control settings = { .kind = QLOG_CONTROL_SETTINGS };
    settings.settings.attempts_max = 1;
    cr_assert_eq(control(&settings), Q_OK);
    assert_text(fixture_pull(&fixture, "g", "c", session, 4, 0), "a,b,c,d");
    /* As if a request of dead letters were under way. */
    fixture.store->dead.busy = true;
    cr_assert_eq(fixture_nack(&fixture, "g", "c", session, 0, 2, 0, "no stock"), Q_OK);
    const struct ql_group *group = fixture.store->groups[0];
    for (uint64_t i = 0; i < 3; i++)
        cr_expect(q_bytes_equal(ql_group_error(group, i), q_bytes_from_text("no stock")));
    cr_expect_eq(ql_group_error(group, 3).size, 0);
    cr_expect_eq(group->error_count, 1, "one text for all of them");
    fixture.store->dead.busy = false;
    for (unsigned i = 0; i < 1000 && lag_of("g").dead < 3; i++)
        fixture_settle(&fixture);
    cr_assert_eq(lag_of("g").dead, 3);
    cr_expect_eq(group->error_count, 0, "and none when they are all gone");
}

/* Who died, came back and dies again is dead after the same time. */
Test(store_groups, who_came_back_may_die_again)
{
    cr_assert_eq(fixture_publish(&fixture, "orders", "a", NULL, NULL), Q_OK);
    (void)fixture_join(&fixture, "g", "c", NULL);
    advance(30001);
    uint64_t session = fixture_join(&fixture, "g", "c", NULL);
    assert_text(fixture_pull(&fixture, "g", "c", session, 1, 0), "a");
    advance(29999);
    cr_assert_eq(lag_of("g").in_flight, 1);
    advance(2);
    cr_assert_eq(lag_of("g").in_flight, 0);
    cr_assert_eq(lag_of("g").pending_released, 1);
    session = fixture_join(&fixture, "g", "d", NULL);
    struct pulled pulled = fixture_pull(&fixture, "g", "d", session, 1, 0);
    assert_text(pulled, "a");
    cr_assert_eq(pulled.runs[0].attempt, 2);
}

/* What goes while it is held or pending is a dead letter, and an ack of it changes nothing any more. */
Test(store_groups, what_is_dropped_is_dead)
{
    for (unsigned i = 0; i < 100; i++)
        cr_assert_eq(fixture_publish(&fixture, "orders", "a", NULL, NULL), Q_OK);
    uint64_t session = fixture_join(&fixture, "g", "c", NULL);
    assert_text(fixture_pull(&fixture, "g", "c", session, 2, 0), "a,a");
    cr_assert_eq(fixture_nack(&fixture, "g", "c", session, 1, 1, 60000, ""), Q_OK);
    fixture_settle(&fixture);
    struct qlog_trim trim = {
        .request = { .kind = QLOG_TRIM },
        .messages_before = { INT64_MAX },
    };
    cr_assert_eq(fixture_run(&fixture, &trim.request), Q_OK);
    fixture_settle(&fixture);
    cr_assert_eq(lag_of("g").in_flight, 0);
    cr_assert_eq(lag_of("g").pending_retry, 0);
    cr_assert_eq(lag_of("g").dead, 2);
    cr_assert_eq(fixture_ack(&fixture, "g", "c", session, 0, 0), Q_EXPIRED);
    crash_keeps_lag("g");
    cr_assert_eq(lag_of("g").dead, 2);
}

/* A pull sequence that may have been given out by what power loss took: an ack of it does not count,
 * and says so, also when others were given out since. */
Test(store_groups, an_ack_of_a_lost_hand_out)
{
    cr_assert_eq(fixture_publish(&fixture, "orders", "a,b", NULL, NULL), Q_OK);
    uint64_t session = fixture_join(&fixture, "g", "c", NULL);
    assert_text(fixture_pull(&fixture, "g", "c", session, 1, 0), "a");
    fixture_crash(&fixture);
    cr_assert_eq(fixture_ack(&fixture, "g", "c", session, 1, 1), Q_EXPIRED);
    cr_assert_eq(fixture_ack(&fixture, "g", "c", session, 0, 0), Q_OK);
    struct pulled pulled = fixture_pull(&fixture, "g", "c", session, 1, 2);
    assert_text(pulled, "b");
    cr_assert_geq(pulled.runs[0].pull_sequence, 1ull << 40);
    cr_assert_eq(fixture_ack(&fixture, "g", "c", session, 1, 1), Q_EXPIRED);
    cr_assert_eq(lag_of("g").in_flight, 1);
}

/* An id that was forgotten, or whose group was deleted, and that comes back, is given no pull sequence
 * again: an ack of what it had then is none of what it has now. */
Test(store_groups, pull_sequences_are_given_once)
{
    cr_assert_eq(fixture_publish(&fixture, "orders", "a,b,c", NULL, NULL), Q_OK);
    uint64_t session = fixture_join(&fixture, "g", "c", NULL);
    assert_text(fixture_pull(&fixture, "g", "c", session, 1, 0), "a");
    for (unsigned i = 0; i < 22; i++)
        advance(30 * 1000);
    cr_assert_eq(lag_of("g").consumer_count, 0);
    fixture_reopen(&fixture);
    session = fixture_join(&fixture, "g", "c", NULL);
    struct pulled pulled = fixture_pull(&fixture, "g", "c", session, 2, 0);
    assert_text(pulled, "a,b");
    uint64_t first = pulled.runs[0].pull_sequence;
    cr_assert_gt(first, 0);
    cr_assert_eq(fixture_ack(&fixture, "g", "c", session, 0, 0), Q_EXPIRED);
    cr_assert_eq(lag_of("g").in_flight, 2);

    struct qlog_control deletion = { .kind = QLOG_CONTROL_DELETE };
    cr_assert_eq(control(&deletion), Q_OK);
    fixture_reopen(&fixture);
    session = fixture_join(&fixture, "g", "c", NULL);
    pulled = fixture_pull(&fixture, "g", "c", session, 3, 0);
    assert_text(pulled, "a,b,c");
    cr_assert_geq(pulled.runs[0].pull_sequence, first + 2);
    cr_assert_eq(fixture_ack(&fixture, "g", "c", session, first, first + 1), Q_EXPIRED);
    cr_assert_eq(lag_of("g").in_flight, 3);
}

/* A pull that waits behind a full pending set gets what is behind it when the set has room: here,
 * when nobody lives any more who takes what fills it. */
Test(store_groups, room_wakes_a_pull)
{
    uint64_t red = fixture_join(&fixture, "g", "red", "red");
    uint64_t blue = fixture_join(&fixture, "g", "blue", "blue");
    struct qlog_control settings = { .kind = QLOG_CONTROL_SETTINGS };
    settings.settings.pending_max = 2;
    settings.settings.filter_keep_ms = 3000;
    cr_assert_eq(control(&settings), Q_OK);
    cr_assert_eq(fixture_publish(&fixture, "orders", "a,b,c", "blue", NULL), Q_OK);
    cr_assert_eq(fixture_publish(&fixture, "orders", "d", "red", NULL), Q_OK);
    struct fixture_parked parked;
    fixture_park(&fixture, &parked, "g", "red", red, 0);
    cr_assert_eq(parked.answers, 0);
    cr_assert_eq(lag_of("g").pending_filter, 2);
    cr_assert_eq(fixture_leave(&fixture, "g", "blue", blue), Q_OK);
    advance(3001);
    cr_assert_eq(parked.answers, 1);
    cr_assert_eq(parked.err, Q_OK);
    cr_assert_eq(parked.pull.run_count, 1);
    cr_assert_eq(parked.runs[0].sequence, 3);
    qlog_pull_release(&parked.pull);
}

static void
set_pending_max(uint32_t pending_max, uint32_t attempts_max)
{
    struct qlog_control settings = { .kind = QLOG_CONTROL_SETTINGS };
    settings.settings.pending_max = pending_max;
    settings.settings.attempts_max = attempts_max;
    cr_assert_eq(control(&settings), Q_OK);
}

static void
assert_parked_got(struct fixture_parked *parked, uint64_t sequence)
{
    fixture_settle(&fixture);
    cr_assert_eq(parked->answers, 1, "the pull that waits is tried");
    cr_assert_eq(parked->err, Q_OK);
    cr_assert_eq(parked->pull.run_count, 1);
    cr_assert_eq(parked->runs[0].sequence, sequence);
    qlog_pull_release(&parked->pull);
}

/* … room that a late ack makes, of one who holds nothing and waits for nothing. */
Test(store_groups, room_by_a_late_ack_wakes_a_pull)
{
    uint64_t s1 = fixture_join(&fixture, "g", "c1", NULL);
    uint64_t s2 = fixture_join(&fixture, "g", "c2", NULL);
    set_pending_max(2, 16);
    cr_assert_eq(fixture_publish(&fixture, "orders", "a,b,c", NULL, NULL), Q_OK);
    assert_text(fixture_pull(&fixture, "g", "c1", s1, 2, 0), "a,b");
    cr_assert_eq(fixture_nack(&fixture, "g", "c1", s1, 0, 1, 3600 * 1000, ""), Q_OK);
    struct fixture_parked parked;
    fixture_park(&fixture, &parked, "g", "c2", s2, 0);
    cr_assert_eq(parked.answers, 0);
    cr_assert_eq(fixture_ack(&fixture, "g", "c1", s1, 0, 1), Q_OK);
    assert_parked_got(&parked, 2);
}

/* What has a dead letter coming is not skipped to make room. */
Test(store_groups, what_is_dying_is_not_skipped)
{
    uint64_t red = fixture_join(&fixture, "g", "red", "red");
    uint64_t blue = fixture_join(&fixture, "g", "blue", "blue");
    set_pending_max(2, 1);
    cr_assert_eq(fixture_publish(&fixture, "orders", "a,b", "blue", NULL), Q_OK);
    cr_assert_eq(fixture_publish(&fixture, "orders", "d", "red", NULL), Q_OK);
    fixture.store->dead.retry_ns = UINT64_MAX; /* copies are refused */
    assert_text(fixture_pull(&fixture, "g", "blue", blue, 2, 0), "a,b");
    cr_assert_eq(fixture_nack(&fixture, "g", "blue", blue, 0, 1, 0, ""), Q_OK);
    cr_assert_eq(fixture_leave(&fixture, "g", "blue", blue), Q_OK);
    assert_text(fixture_pull(&fixture, "g", "red", red, 10, 0), "");
    cr_assert_eq(lag_of("g").skipped, 0);
    struct fixture_parked parked;
    fixture_park(&fixture, &parked, "g", "red", red, 0);
    fixture.store->dead.retry_ns = 0;
    fixture_settle(&fixture);
    cr_assert_eq(lag_of("g").dead, 2);
    assert_parked_got(&parked, 2);
    cr_assert_eq(lag_of("g").skipped, 0);
}
