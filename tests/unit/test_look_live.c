/*
 * A reader of a store that is running: what the writer drops and writes over meanwhile is passed
 * over, and is never called damage.
 */
#include <criterion/criterion.h>

#include <qlog/cursor.h>

#include "look/check.h"
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

TestSuite(look_live, .init = setup, .fini = teardown);

/* Publish until the log has `rolls` segments more. */
static void
fill(unsigned rolls)
{
    static char body[4000];
    memset(body, 'x', sizeof(body) - 1);
    uint64_t until = fixture.store->messages->tail + (uint64_t)rolls * 256 * 1024;
    while (fixture.store->messages->tail < until)
        cr_assert_eq(fixture_publish(&fixture, fixture_subject, body, NULL, NULL), Q_OK);
    /* The superblock follows the marks once the store was idle for a moment. */
    fixture.clock.monotonic_ns += 2 * (uint64_t)Q_NS_PER_S;
    fixture_settle(&fixture);
}

/* Drop all but the last two segments. */
static void
trim(void)
{
    const struct ql_segment_set *segments = &fixture.store->messages->segments;
    struct qlog_trim request = {
        .request.kind = QLOG_TRIM,
        .messages_before = { segments->segments[segments->count - 2]->base },
    };
    cr_assert_eq(fixture_run(&fixture, &request.request), Q_OK);
}

Test(look_live, a_cursor_passes_over_what_is_dropped)
{
    fill(4);
    struct qlog_cursor *cursor;
    cr_assert_eq(
        qlog_cursor_open(fixture.directory, "message", (qlog_position){ 0 }, &cursor), Q_OK);
    struct qlog_record record;
    struct qlog_damage damage;
    for (unsigned i = 0; i < 5; i++)
        cr_assert_eq(qlog_cursor_next(cursor, &record, &damage), Q_OK);
    uint64_t before = record.frame.value;
    cr_assert_eq(qlog_cursor_check(cursor, record.frame), Q_OK);

    /* Its segments are dropped, and written again as later ones. */
    trim();
    fill(4);
    trim();
    fill(4);
    cr_assert_eq(qlog_cursor_check(cursor, (qlog_position){ before }), Q_GONE);
    enum q_err err;
    while ((err = qlog_cursor_next(cursor, &record, &damage)) == Q_OK) {
        cr_assert_gt(record.frame.value + 1, before);
        before = record.frame.value;
    }
    cr_assert_eq(err, Q_END, "%s", q_fault_last()->what);
    struct qlog_log_state state;
    qlog_cursor_state(cursor, &state);
    cr_assert(state.live);
    cr_assert_eq(state.rot_bytes, 0);
    qlog_cursor_close(cursor);
}

static void
on_damage(void *context, const struct qlog_damage *damage)
{
    (void)context;
    cr_assert_fail("%s, %zu to %zu", damage->what, (size_t)damage->from, (size_t)damage->to);
}

Test(look_live, so_does_a_check)
{
    fill(4);
    struct ql_home *home;
    cr_assert_eq(ql_home_open_to_read(fixture.directory, NULL, &home), Q_OK);
    cr_assert(ql_home_is_live(&home->env));
    trim();
    fill(4);
    struct ql_check check = {
        .home = home,
        .live = true,
        .deep = true,
        .jobs = 2,
        .on_damage = on_damage,
    };
    cr_assert_eq(ql_check_run(&check), Q_OK, "%s: %s", q_fault_last()->what, q_fault_last()->path);
    cr_assert_eq(check.state.rot_bytes, 0);
    cr_assert_eq(check.state.torn_bytes, 0);
    cr_assert_eq(ql_home_close(home), Q_OK);
}
