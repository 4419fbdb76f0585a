/*
 * What changes of a group cost: spans that are moved, counted. Each change here concerns all of a
 * pending set, or a window, that is as torn as it gets; what it costs grows with it, not with its square.
 */
#include <criterion/criterion.h>
#include <stdlib.h>

#include "consume/group.h"

enum {
    SPANS = 2000,
    COST = 8 /* moves of one span, at most */
};

static struct ql_group *group;

/* Consumer 0 takes everything (filter 0), consumer 1 the tag "red" (filter 1). */
static void
join(uint32_t consumer, const char *name)
{
    struct ql_join_record record = {
        .consumer_id = consumer,
        .session = 1 + consumer,
        .filter = { .slot = consumer },
        .name = q_bytes_from_text(name),
    };
    if (consumer == 1) {
        record.filter.filter.tags[0] = q_bytes_from_text("red");
        record.filter.filter.tag_count = 1;
    }
    cr_assert_eq(ql_group_apply_join(group, &record), Q_OK);
}

static void
setup(void)
{
    struct ql_group_record record = {
        .subject = q_bytes_from_text("orders"),
        .name = q_bytes_from_text("g"),
    };
    cr_assert_eq(ql_settings_complete(&record.settings), Q_OK);
    cr_assert_eq(ql_group_new(&record, NULL, NULL, &group), Q_OK);
    join(0, "all");
    join(1, "red");
}

static void
teardown(void)
{
    ql_group_check(group);
    ql_group_free(group);
}

TestSuite(consume_cost, .init = setup, .fini = teardown, .timeout = 60);

/* Of each two messages the second is handed to consumer 0, the first, if `passed`, is for filter 1. */
static void
pull(bool passed)
{
    struct ql_pull_run *runs = calloc(SPANS, sizeof(*runs));
    struct ql_pass *passes = calloc(SPANS, sizeof(*passes));
    uint8_t *bytes = malloc(ql_pull_record_size(SPANS, SPANS));
    cr_assert(runs != NULL && passes != NULL && bytes != NULL);
    for (uint32_t i = 0; i < SPANS; i++) {
        runs[i] = (struct ql_pull_run){ .sequence = 2 * i + 1, .count = 1, .filters = 1 };
        passes[i] = (struct ql_pass){
            .sequence = 2 * i,
            .count = 1,
            .filters = 2,
            .reason = QL_REASON_FILTER,
        };
    }
    struct ql_pull_record record = {
        .cursor = 2 * SPANS,
        .run_count = SPANS,
        .pass_count = passed ? SPANS : 0,
    };
    ql_pull_record_encode(&record, runs, passes, bytes);
    struct q_bytes encoded =
        q_bytes_from(bytes, ql_pull_record_size(record.run_count, record.pass_count));
    cr_assert_eq(ql_pull_record_decode(encoded, &record), Q_OK);
    cr_assert_eq(ql_group_apply_pull(group, &record), Q_OK);
    free(runs);
    free(passes);
    free(bytes);
}

static void
resolve(enum ql_verdict verdict, uint32_t count)
{
    struct ql_resolve_item *items = calloc(count, sizeof(*items));
    uint8_t *bytes = malloc(ql_resolve_record_size(count));
    cr_assert(items != NULL && bytes != NULL);
    for (uint32_t i = 0; i < count; i++) {
        uint64_t last = count == 1 ? 2 * SPANS - 1 : 2 * i + 1;
        items[i] = (struct ql_resolve_item){ 2 * i, last, 0 };
    }
    struct ql_resolve_record record = { .verdict = (uint8_t)verdict, .item_count = count };
    ql_resolve_record_encode(&record, items, bytes);
    cr_assert_eq(
        ql_resolve_record_decode(q_bytes_from(bytes, ql_resolve_record_size(count)), &record),
        Q_OK);
    cr_assert_eq(ql_group_apply_resolve(group, &record), Q_OK);
    free(items);
    free(bytes);
}

static void
leave(uint32_t consumer)
{
    const struct ql_release_record record = {
        .consumer_id = consumer,
        .reason = QL_RELEASE_LEFT,
    };
    cr_assert_eq(ql_group_apply_release(group, &record), Q_OK);
}

Test(consume_cost, a_filter_goes)
{
    pull(true);
    cr_assert_eq(group->pending.count, SPANS);
    leave(0);
    leave(1);
    cr_assert_eq(group->pending.count, 2 * SPANS);
    uint64_t before = group->pending.moved;
    const struct ql_unfilter_record record = { .slot = 1 };
    cr_assert_eq(ql_group_apply_unfilter(group, &record), Q_OK);
    cr_assert_eq(group->pending_messages, SPANS);
    cr_assert_eq(group->skipped, SPANS);
    cr_expect_leq(group->pending.moved - before, COST * SPANS);
}

Test(consume_cost, a_range_goes_that_is_in_a_hand)
{
    pull(true);
    const struct ql_consumer *consumer = ql_group_consumer(group, 0);
    cr_assert_eq(consumer->held.count, SPANS);
    uint64_t before = consumer->held.moved + group->pending.moved;
    resolve(QL_VERDICT_EXPIRED, 1);
    cr_assert_eq(group->expired, 2 * SPANS);
    cr_expect_leq(consumer->held.moved + group->pending.moved - before, COST * SPANS);
}

Test(consume_cost, many_ranges_go)
{
    pull(true);
    const struct ql_consumer *consumer = ql_group_consumer(group, 0);
    uint64_t before = consumer->held.moved + group->pending.moved;
    resolve(QL_VERDICT_SKIPPED, SPANS);
    cr_assert_eq(group->skipped, 2 * SPANS);
    cr_expect_leq(consumer->held.moved + group->pending.moved - before, COST * SPANS);
}

Test(consume_cost, all_of_it_is_about_to_go)
{
    pull(true);
    const struct ql_consumer *consumer = ql_group_consumer(group, 0);
    uint64_t before = consumer->held.moved + group->pending.moved;
    resolve(QL_VERDICT_EXPIRING, SPANS);
    cr_assert_eq(group->pending_by[QL_REASON_DYING], 2 * SPANS);
    cr_assert_eq(consumer->held_messages, 0);
    cr_expect_leq(consumer->held.moved + group->pending.moved - before, COST * SPANS);
    before = group->pending.moved;
    resolve(QL_VERDICT_DEAD, SPANS);
    cr_assert_eq(group->dead, 2 * SPANS);
    cr_expect_leq(group->pending.moved - before, COST * SPANS);
}

/* Many ranges that come too late, against many that are pending: each is told. */
Test(consume_cost, many_acks_come_late)
{
    enum {
        RANGES = SPANS / 2
    };
    pull(false);
    leave(0);
    const struct ql_consumer *consumer = ql_group_consumer(group, 0);
    cr_assert_eq(consumer->returned, SPANS);
    struct qlog_range *ranges = calloc(RANGES, sizeof(*ranges));
    uint64_t *counts = calloc(RANGES, sizeof(*counts));
    cr_assert(ranges != NULL && counts != NULL);
    for (uint32_t i = 0; i < RANGES; i++)
        ranges[i] = (struct qlog_range){ 2 * i, 2 * i };
    ql_consumer_has(consumer, ranges, RANGES, UINT64_MAX, true, counts);
    for (uint32_t i = 0; i < RANGES; i++)
        cr_assert_eq(counts[i], 1);
    ql_consumer_has(consumer, ranges, RANGES, UINT64_MAX, false, counts);
    for (uint32_t i = 0; i < RANGES; i++)
        cr_assert_eq(counts[i], 0);
    ql_consumer_has(consumer, ranges, RANGES, RANGES, true, counts);
    for (uint32_t i = 0; i < RANGES; i++)
        cr_assert_eq(counts[i], i < RANGES / 2 ? 1 : 0);
    uint8_t *bytes = malloc(ql_ack_record_size(RANGES));
    struct ql_ack_record record = { .range_count = RANGES };
    ql_ack_record_encode(&record, ranges, bytes);
    cr_assert_eq(
        ql_ack_record_decode(q_bytes_from(bytes, ql_ack_record_size(RANGES)), &record), Q_OK);
    uint64_t before = group->pending.moved;
    cr_assert_eq(ql_group_apply_ack(group, &record), Q_OK);
    cr_assert_eq(group->pending_messages, SPANS - RANGES);
    cr_expect_leq(group->pending.moved - before, COST * SPANS);
    free(bytes);
    free(ranges);
    free(counts);
}
