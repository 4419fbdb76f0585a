/*
 * What groups have in hand of messages that are about to go: it becomes dead letters first, and only a
 * disk without room, or one that keeps nothing, makes a trim go on without.
 */
#include <criterion/criterion.h>

#include "ramdisk.h"
#include "store/store.h"
#include "store_fixture.h"

enum {
    BATCHES = 200, /* three segments */
};

static struct store_fixture fixture;
static struct ramdisk *disk;
static uint64_t session;

static void
setup(void)
{
    fixture_open(&fixture);
    /* On a disk that forgets what was not flushed when a test says so. */
    cr_assert_eq(qlog_store_close(fixture.store), Q_OK);
    disk = ramdisk_new();
    ramdisk_remember(disk);
    fixture.options.log.io = ramdisk_io(disk);
    cr_assert_eq(qlog_store_open("/store", &fixture.options, &fixture.store), Q_OK);
    for (unsigned i = 0; i < BATCHES; i++)
        cr_assert_eq(fixture_publish(&fixture, fixture_subject, "a", NULL, NULL), Q_OK);
    session = fixture_join(&fixture, "g", "c", NULL);
}

static void
teardown(void)
{
    cr_assert_eq(qlog_store_close(fixture.store), Q_OK);
    fixture.store = NULL;
    fixture_close(&fixture);
    ramdisk_free(disk);
}

TestSuite(store_expiry, .init = setup, .fini = teardown, .timeout = 60);

static void
crash(bool power)
{
    fixture.store->home->env.broken = Q_E_BROKEN;
    cr_assert_eq(qlog_store_close(fixture.store), Q_E_BROKEN);
    if (power) ramdisk_lose(disk);
    cr_assert_eq(qlog_store_open("/store", &fixture.options, &fixture.store), Q_OK);
}

static struct qlog_lag
lag(void)
{
    struct qlog_lag lag = {
        .request = { .kind = QLOG_LAG },
        .subject = q_bytes_from_text(fixture_subject),
        .group = q_bytes_from_text("g"),
    };
    cr_assert_eq(fixture_run(&fixture, &lag.request), Q_OK);
    return lag;
}

/* How many are stored. */
static uint64_t
letters(void)
{
    struct ql_index *index = &fixture.store->index;
    struct ql_subject *subject;
    struct ql_entry entry;
    struct q_bytes name = q_bytes_from_text("%DEAD_RETRY%orders%g");
    uint64_t count = 0;
    uint64_t at = 0;
    if (ql_index_find(index, name, &subject) != Q_OK) return 0;
    while (ql_index_entry(index, subject, at, &entry) == Q_OK) {
        at = ql_entry_end(&entry);
        count += at - entry.first_sequence;
    }
    return count;
}

/* Message 0 is in a hand, 1 waits for its retry. */
static void
have_two(void)
{
    struct pulled pulled = fixture_pull(&fixture, "g", "c", session, 2, 0);
    cr_assert_str_eq(pulled.text, "a,a");
    cr_assert_eq(fixture_nack(&fixture, "g", "c", session, 1, 1, 60000, "no stock"), Q_OK);
}

/* --- A trim that may have to wait. */

static struct qlog_trim request;
static unsigned answers;

static void
on_trimmed(struct qlog_request *trim, enum q_err err)
{
    (void)trim;
    (void)err;
    answers++;
}

static void
begin_trim(void)
{
    answers = 0;
    request = (struct qlog_trim){
        .request = { .kind = QLOG_TRIM, .done = on_trimmed },
        .messages_before = { INT64_MAX },
    };
    cr_assert_eq(qlog_store_submit(fixture.store, &request.request), Q_OK);
    fixture_settle(&fixture);
}

static void
end_trim(void)
{
    for (unsigned i = 0; i < 1000 && answers == 0; i++)
        fixture_settle(&fixture);
    cr_assert_eq(answers, 1);
    cr_assert_eq(request.request.err, Q_OK);
    cr_assert_gt(fixture.store->messages->segments.segments[0]->base, 0, "something went");
}

Test(store_expiry, in_hand_and_pending_become_dead_letters)
{
    have_two();
    begin_trim();
    end_trim();
    cr_assert_eq(lag().dead, 2);
    cr_assert_eq(lag().expired, 0);
    cr_assert_eq(lag().in_flight, 0);
    cr_assert_eq(lag().pending_retry + lag().pending_dying, 0);
    cr_assert_eq(letters(), 2);
    cr_assert_eq(fixture.events[QLOG_EVENT_EXPIRED], 0);
    /* It has its letter: an ack of it says nothing any more, and says so. */
    cr_assert_eq(fixture_ack(&fixture, "g", "c", session, 0, 0), Q_EXPIRED);
    crash(false);
    cr_assert_eq(lag().dead, 2);
    cr_assert_eq(letters(), 2);
}

/* When the segment is gone, the letters are there, whatever the power takes. */
Test(store_expiry, letters_outlive_the_power)
{
    have_two();
    begin_trim();
    end_trim();
    crash(true);
    cr_assert_gt(fixture.store->messages->segments.segments[0]->base, 0);
    cr_assert_geq(letters(), 2);
}

/* The trim waits, and a stop in between forgets nothing: the messages are there, and dying. */
Test(store_expiry, a_trim_waits_for_the_copies)
{
    have_two();
    fixture.store->dead.busy = true; /* as if letters were under way */
    begin_trim();
    cr_assert_eq(answers, 0);
    cr_assert_eq(lag().pending_dying, 2);
    cr_assert_eq(fixture_pull(&fixture, "g", "c", session, 0, 0).run_count, 0, "nobody gets them");
    fixture.store->dead.busy = false;
    crash(false);
    cr_assert_eq(answers, 1, "the stop answered it");
    cr_assert_eq(request.request.err, Q_STOPPING);
    /* What is read from the disk comes in a while. */
    for (unsigned i = 0; i < 1000 && lag().dead < 2; i++) {
        q_clock_manual_advance_ns(&fixture.clock, 20 * (uint64_t)Q_NS_PER_MS);
        fixture_settle(&fixture);
    }
    cr_assert_eq(lag().dead, 2);
    cr_assert_eq(letters(), 2);
}

/* An ack that comes before the copy counts: there is no letter. */
Test(store_expiry, an_ack_in_between_counts)
{
    have_two();
    fixture.store->dead.busy = true;
    begin_trim();
    cr_assert_eq(fixture_ack(&fixture, "g", "c", session, 0, 0), Q_OK);
    fixture.store->dead.busy = false;
    end_trim();
    cr_assert_eq(lag().dead, 1);
    cr_assert_eq(letters(), 1);
    cr_assert_eq(lag().expired, 0);
}

/* More than one request of letters; and what stays is left in its consumer's hands. */
/* While a trim waits nobody is given for the first time what goes; what is sent again by hand meanwhile
 * gets its letter, too. */
Test(store_expiry, what_comes_while_it_waits)
{
    have_two();
    cr_assert_eq(fixture_ack(&fixture, "g", "c", session, 0, 0), Q_OK);
    fixture.store->dead.retry_ns = UINT64_MAX; /* copies are refused */
    begin_trim();
    cr_assert_eq(answers, 0);
    cr_assert_str_eq(fixture_pull(&fixture, "g", "c", session, 3, 2).text, "");
    struct qlog_control again = {
        .request.kind = QLOG_CONTROL,
        .kind = QLOG_CONTROL_RESEND,
        .subject = q_bytes_from_text(fixture_subject),
        .group = q_bytes_from_text("g"),
        .range = { 0, 0 },
    };
    while (fixture_run(&fixture, &again.request) == Q_BUSY) {
        q_clock_manual_advance_ns(&fixture.clock, 20 * (uint64_t)Q_NS_PER_MS);
        fixture_settle(&fixture);
    }
    cr_assert_eq(again.affected, 1);
    fixture.store->dead.retry_ns = 0;
    for (unsigned i = 0; i < 1000 && answers == 0; i++) {
        q_clock_manual_advance_ns(&fixture.clock, 20 * (uint64_t)Q_NS_PER_MS);
        fixture_settle(&fixture);
    }
    end_trim();
    cr_assert_eq(letters(), 2);
    cr_assert_eq(lag().expired, 0);
}

Test(store_expiry, all_of_it_and_no_more)
{
    struct pulled pulled = { 0 };
    uint64_t received = 0;
    while (received < BATCHES) {
        pulled = fixture_pull(&fixture, "g", "c", session, 32, received);
        cr_assert_gt(pulled.run_count, 0);
        received = pulled.runs[pulled.run_count - 1].pull_sequence +
                   pulled.runs[pulled.run_count - 1].count;
    }
    cr_assert_eq(lag().in_flight, BATCHES);
    begin_trim();
    end_trim();
    struct ql_subject *subject;
    struct ql_entry entry;
    struct q_bytes name = q_bytes_from_text(fixture_subject);
    cr_assert_eq(ql_index_find(&fixture.store->index, name, &subject), Q_OK);
    cr_assert_eq(ql_index_entry(&fixture.store->index, subject, 0, &entry), Q_OK);
    cr_assert_gt(entry.first_sequence, QL_DEAD_MAX - 1);
    cr_assert_eq(lag().dead, entry.first_sequence);
    cr_assert_eq(lag().in_flight, BATCHES - entry.first_sequence);
    cr_assert_eq(letters(), entry.first_sequence);
}

/* A disk without room is made free, letters or not: what had none is counted and told. */
Test(store_expiry, a_full_disk_does_not_wait)
{
    have_two();
    fixture.store->dead.busy = true;
    begin_trim();
    cr_assert_eq(answers, 0);
    fixture.store->retention.hard_bytes = UINT64_MAX;
    q_clock_manual_advance_ns(&fixture.clock, 2 * (uint64_t)Q_NS_PER_S);
    end_trim();
    fixture.store->dead.busy = false;
    cr_assert_eq(lag().expired, 2);
    cr_assert_eq(lag().dead, 0);
    cr_assert_eq(fixture.events[QLOG_EVENT_EXPIRED], 1);
    begin_trim();
}

/* So it is when no letter can be stored for a minute. */
Test(store_expiry, patience_ends)
{
    have_two();
    fixture.store->dead.busy = true;
    begin_trim();
    q_clock_manual_advance_ns(&fixture.clock, 59 * (uint64_t)Q_NS_PER_S);
    fixture_settle(&fixture);
    cr_assert_eq(answers, 0);
    q_clock_manual_advance_ns(&fixture.clock, 2 * (uint64_t)Q_NS_PER_S);
    end_trim();
    fixture.store->dead.busy = false;
    cr_assert_eq(lag().expired, 2);
    cr_assert_eq(fixture.events[QLOG_EVENT_EXPIRED], 1);
}
