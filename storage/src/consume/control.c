/*
 * consume/control.c: what is done to a group as a whole.
 */
#include <qbase/assert.h>

#include "consume/group.h"
#include "planted.h"

enum q_err
ql_group_apply_seek(struct ql_group *group, const struct ql_seek_record *record)
{
    group->restoring = false;
    group->hole = false;
    ql_spans_clear(&group->pending, NULL, NULL);
    ql_keys_clear(&group->keys);
    group->pending_messages = 0;
    for (unsigned i = 0; i <= QL_REASON_DYING; i++)
        group->pending_by[i] = 0;
    group->due_ms = UINT64_MAX;
    group->error_count = 0;
    for (uint32_t i = 0; i < group->consumer_count; i++) {
        struct ql_consumer *consumer = group->consumers[i];
        if (consumer == NULL || QL_PLANTED(seek_keeps_windows)) continue;
        ql_spans_clear(&consumer->held, NULL, NULL);
        consumer->held_messages = 0;
        consumer->held_bytes = 0;
        consumer->returned = 0;
        consumer->released_below = consumer->next_pull_sequence;
    }
    group->cursor = record->cursor;
    group->epoch++;
    return Q_OK;
}

enum q_err
ql_group_apply_settings(struct ql_group *group, const struct ql_settings_record *record)
{
    group->restoring = false;
    bool strict = group->settings.strict;
    group->settings.strict = record->settings.strict;
    enum q_err err = ql_pending_recount(group);
    if (err != Q_OK) {
        group->settings.strict = strict;
        return err;
    }
    group->settings = record->settings;
    group->paused = record->paused;
    return Q_OK;
}

enum q_err
ql_group_apply_unfilter(struct ql_group *group, const struct ql_unfilter_record *record)
{
    group->restoring = false;
    const struct ql_filter *filter = group->filters.slots[record->slot];
    if (filter == NULL || filter->members > 0)
        return Q_FAIL(Q_E_CORRUPT, .what = "UNFILTER of a filter that has members, or is unknown");
    ql_filters_drop(&group->filters, record->slot);
    uint16_t bit = (uint16_t)(1u << record->slot);
    /* The slot may be given to another filter. */
    for (uint32_t i = 0; i < group->consumer_count; i++) {
        const struct ql_consumer *consumer = group->consumers[i];
        for (uint32_t j = 0; consumer != NULL && j < consumer->held.count; j++) {
            struct ql_range_item *item = ql_span_at(&consumer->held, j);
            item->filters = (uint16_t)(item->filters & ~bit);
        }
    }
    group->skipped += ql_pending_unfilter(group, bit);
    return Q_OK;
}
