/*
 * consume/session.c: consumers come, and go.
 */
#include <string.h>

#include "consume/release.h"

static bool is_for_others(const void *context, const struct ql_range_item *item);
static bool is_any(const void *context, const struct ql_range_item *item);

enum q_err
ql_group_apply_join(struct ql_group *group, const struct ql_join_record *record)
{
    group->restoring = false;
    struct ql_consumer *consumer = ql_group_consumer(group, record->consumer_id);
    if (consumer != NULL &&
        !q_bytes_equal(q_bytes_from(consumer->name, consumer->name_size), record->name))
        return Q_FAIL(Q_E_CORRUPT, .what = "JOIN of a consumer id under another name");
    if (consumer != NULL) Q_TRY(ql_release_reserve(group, consumer->held.count));
    Q_TRY(ql_filters_set(&group->filters, &record->filter));
    if (consumer == NULL)
        Q_TRY(ql_consumer_new(
            group, record->consumer_id, record->name, record->next_pull_sequence, &consumer));
    ql_consumer_set_session(consumer, record->session, record->filter.slot);
    memcpy(consumer->token, record->token, sizeof(consumer->token));
    /* What it holds and does not take any more is for those who do. */
    uint16_t taken = (uint16_t)(1u << record->filter.slot);
    uint64_t held = consumer->held_messages;
    ql_release_where(consumer, is_for_others, &taken, QL_USE_NONE);
    if (consumer->held_messages < held) consumer->released_below = consumer->next_pull_sequence;
    return Q_OK;
}

static bool
is_for_others(const void *context, const struct ql_range_item *item)
{
    return (item->filters & *(const uint16_t *)context) == 0;
}

static bool
is_any(const void *context, const struct ql_range_item *item)
{
    (void)context;
    (void)item;
    return true;
}

enum q_err
ql_group_apply_release(struct ql_group *group, const struct ql_release_record *record)
{
    group->restoring = false;
    struct ql_consumer *consumer = ql_group_consumer(group, record->consumer_id);
    if (consumer == NULL) return Q_FAIL(Q_E_CORRUPT, .what = "RELEASE of an unknown consumer");
    Q_TRY(ql_release_reserve(group, consumer->held.count));
    /* A death is an attempt; an orderly goodbye is not. */
    bool died = record->reason == QL_RELEASE_DIED;
    ql_release_where(consumer, is_any, NULL, died ? QL_USE_DIED : QL_USE_NONE);
    consumer->released_below = consumer->next_pull_sequence;
    ql_consumer_set_session(consumer, 0, consumer->filter);
    if (record->reason != QL_RELEASE_FORGOTTEN) return Q_OK;
    /* Its number may be given to another, whose acks are none of these messages'. */
    for (uint32_t i = 0; i < group->pending.count; i++) {
        struct ql_range_item *item = ql_span_at(&group->pending, i);
        if (item->consumer_id == consumer->id) item->consumer_id = (uint32_t)QL_CONSUMER_NONE;
    }
    ql_consumer_free(consumer);
    return Q_OK;
}
