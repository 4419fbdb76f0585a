/*
 * store/control.c: groups as a whole: settings, pause, seek, skip, send again, delete.
 */
#include <qbase/assert.h>

#include "store/hand.h"

typedef enum q_err control_fn(
    struct qlog_store *store, struct qlog_control *control, struct ql_group *group);

static control_fn control_settings;
static control_fn control_seek;
static control_fn control_skip;
static control_fn control_resend;
static control_fn control_delete;
static enum q_err resend_item(
    struct qlog_store *store,
    struct ql_group *group,
    uint64_t sequence,
    struct ql_resolve_item *ret_item);
static bool group_has(const struct ql_group *group, uint64_t sequence);

static control_fn *const controls[] = {
    [QLOG_CONTROL_SETTINGS] = control_settings, [QLOG_CONTROL_PAUSE] = control_settings,
    [QLOG_CONTROL_RESUME] = control_settings,   [QLOG_CONTROL_SEEK] = control_seek,
    [QLOG_CONTROL_SKIP] = control_skip,         [QLOG_CONTROL_RESEND] = control_resend,
    [QLOG_CONTROL_DELETE] = control_delete,
};

void
ql_control_start(struct qlog_store *store, struct qlog_control *control)
{
    struct ql_group *group = NULL;
    enum q_err err = Q_OK;
    struct ql_subject *subject;
    if (ql_index_find(&store->index, control->subject, &subject) == Q_OK)
        group = ql_store_find_group(store, subject, control->group);
    if (group == NULL)
        err = Q_FAIL(
            Q_NOT_FOUND, .what = q_text(
                             "no group \"%.*s\" on \"%.*s\"", (int)control->group.size,
                             (const char *)control->group.data, (int)control->subject.size,
                             (const char *)control->subject.data));
    else if ((unsigned)control->kind >= sizeof(controls) / sizeof(controls[0]))
        err = Q_FAIL(Q_INVALID, .what = q_text("there is no control %u", (unsigned)control->kind));
    control->affected = 0;
    if (err == Q_OK) {
        control->epoch = group->epoch;
        control->cursor = group->cursor;
        err = controls[control->kind](store, control, group);
    }
    /* Q_AGAIN: its action answers it. */
    if (err != Q_AGAIN) ql_request_finish(&control->request, err);
}

static enum q_err
control_settings(struct qlog_store *store, struct qlog_control *control, struct ql_group *group)
{
    struct ql_settings_record record = {
        .group_id = group->id,
        .paused = group->paused,
        .settings = group->settings,
    };
    if (control->kind == QLOG_CONTROL_SETTINGS) record.settings = control->settings;
    if (control->kind == QLOG_CONTROL_PAUSE) record.paused = true;
    if (control->kind == QLOG_CONTROL_RESUME) record.paused = false;
    Q_TRY(ql_settings_complete(&record.settings));
    struct ql_action *action;
    Q_TRY(ql_action_new(store, ql_settings_record_size(&record), &action));
    enum q_err err = ql_group_apply_settings(group, &record);
    if (err != Q_OK) {
        ql_action_drop(action);
        return err;
    }
    ql_settings_record_encode(&record, action->record);
    action->append.flushed = true;
    ql_action_append(action, &control->request);
    ql_group_watch(store, group, store->now_ns);
    ql_group_try(store, group);
    return Q_AGAIN;
}

enum q_err
ql_store_start(
    struct qlog_store *store,
    struct ql_subject *subject,
    enum qlog_start start,
    uint64_t at,
    uint64_t *ret_cursor)
{
    struct ql_entry entry;
    uint64_t end = ql_store_visible_end(store, subject);
    uint64_t from = start == QLOG_START_SEQUENCE ? at : 0;
    *ret_cursor = end;
    if (start == QLOG_START_LATEST) return Q_OK;
    enum q_err err = ql_index_entry(&store->index, subject, from, &entry);
    if (err < Q_OK) return err;
    if (start == QLOG_START_EARLIEST && err != Q_OK) *ret_cursor = subject->next_sequence;
    if (err != Q_OK || (start == QLOG_START_SEQUENCE && from >= end)) return Q_OK;
    *ret_cursor = q_max_u64(from, entry.first_sequence);
    if (start != QLOG_START_TIME) return Q_OK;
    uint64_t position;
    uint64_t first;
    Q_TRY(ql_index_time(&store->index, at, &position));
    Q_TRY(ql_store_sequence_at(store, subject, position, entry.first_sequence, end, &first));
    err = ql_index_entry(&store->index, subject, first, &entry);
    if (err < Q_OK) return err;
    *ret_cursor = err == Q_OK ? q_max_u64(first, entry.first_sequence) : end;
    return Q_OK;
}

enum q_err
ql_store_sequence_at(
    struct qlog_store *store,
    struct ql_subject *subject,
    uint64_t position,
    uint64_t low,
    uint64_t high,
    uint64_t *ret_sequence)
{
    /* Positions rise with sequences. */
    while (low < high) {
        struct ql_entry entry;
        uint64_t middle = low + (high - low) / 2;
        enum q_err err = ql_index_entry(&store->index, subject, middle, &entry);
        if (err < Q_OK) return err;
        if (err != Q_OK || entry.first_sequence >= high)
            high = middle;
        else if (entry.frame < position)
            low = ql_entry_end(&entry);
        else
            high = q_min_u64(middle, entry.first_sequence);
    }
    *ret_sequence = low;
    return Q_OK;
}

static enum q_err
control_seek(struct qlog_store *store, struct qlog_control *control, struct ql_group *group)
{
    struct ql_seek_record record = { .group_id = group->id };
    Q_TRY(ql_store_start(store, group->subject, control->start, control->at, &record.cursor));
    control->affected = ql_group_in_flight(group);
    control->cursor = record.cursor;
    if (control->preview) return Q_OK;
    struct ql_action *action;
    Q_TRY(ql_action_new(store, ql_seek_record_size(), &action));
    enum q_err err = ql_group_apply_seek(group, &record);
    Q_ASSERT(err == Q_OK);
    control->epoch = group->epoch;
    ql_seek_record_encode(&record, action->record);
    ql_retention_group_went_back(store, group->subject);
    action->append.flushed = true;
    ql_action_append(action, &control->request);
    ql_group_try(store, group);
    return Q_AGAIN;
}

static enum q_err
control_skip(struct qlog_store *store, struct qlog_control *control, struct ql_group *group)
{
    struct qlog_range range = control->range;
    if (range.first > range.last || range.last - range.first >= UINT32_MAX)
        return Q_FAIL(Q_INVALID, .what = "a range that ends before it begins, or is too long");
    uint64_t end = ql_store_visible_end(store, group->subject);
    struct ql_resolve_record record = {
        .group_id = group->id,
        .verdict = QL_VERDICT_SKIPPED,
        .item_count = 1,
    };
    /* What waits can be skipped from the cursor on; a later part is not there to be named yet. */
    if (range.first <= group->cursor && range.last >= group->cursor)
        record.cursor = q_max_u64(group->cursor, q_min_u64(range.last + 1, end));
    if (range.first > group->cursor)
        return Q_FAIL(
            Q_INVALID, .what = q_text(
                           "messages from %llu on wait behind others; the cursor is at %llu",
                           (unsigned long long)range.first, (unsigned long long)group->cursor));
    struct ql_resolve_item item = { range.first, range.last, 0 };
    if (control->preview) {
        control->affected = record.cursor > group->cursor ? record.cursor - group->cursor : 0;
        for (uint32_t i = 0; i < group->pending.count; i++) {
            const struct ql_range_item *span = ql_span_at(&group->pending, i);
            uint64_t from = q_max_u64(span->sequence, range.first);
            uint64_t to = q_min_u64(span->sequence + span->count, range.last + 1);
            if (from < to) control->affected += to - from;
        }
        return Q_OK;
    }
    struct ql_action *action;
    Q_TRY(ql_action_new(store, ql_resolve_record_size(1), &action));
    ql_resolve_record_encode(&record, &item, action->record);
    enum q_err err =
        ql_resolve_record_decode(q_bytes_from(action->record, action->record_size), &record);
    uint64_t skipped = group->skipped;
    if (err == Q_OK) err = ql_group_apply_resolve(group, &record);
    if (err != Q_OK) {
        ql_action_drop(action);
        return err;
    }
    control->affected = group->skipped - skipped;
    control->cursor = group->cursor;
    action->append.flushed = true;
    ql_action_append(action, &control->request);
    ql_group_try(store, group);
    return Q_AGAIN;
}

/* --- Send again what the group was done with. */

static enum q_err
control_resend(struct qlog_store *store, struct qlog_control *control, struct ql_group *group)
{
    enum {
        RESEND_MAX = 1000
    };
    struct qlog_range range = control->range;
    if (range.first > range.last || range.last - range.first >= RESEND_MAX ||
        range.last >= group->cursor)
        return Q_FAIL(
            Q_INVALID, .what = q_text(
                           "1 to %u messages below the group's cursor, %llu, can be sent again",
                           (unsigned)RESEND_MAX, (unsigned long long)group->cursor));
    struct ql_resolve_item items[RESEND_MAX];
    uint32_t count = 0;
    for (uint64_t i = range.first; i <= range.last; i++) {
        /* What it still has comes anyhow. */
        if (group_has(group, i)) continue;
        Q_TRY(resend_item(store, group, i, &items[count]));
        count++;
    }
    control->affected = count;
    if (count == 0 || control->preview) return Q_OK;
    if (ql_filters_kept(&group->filters) == 0)
        return Q_FAIL(
            Q_INVALID, .what = "the group never had a member", .hint = "start a consumer first");
    Q_TRY(ql_store_resolve(store, group, QL_VERDICT_RESENT, items, count, &control->request));
    ql_retention_group_went_back(store, group->subject);
    ql_group_try(store, group);
    return Q_AGAIN;
}

static enum q_err
resend_item(
    struct qlog_store *store,
    struct ql_group *group,
    uint64_t sequence,
    struct ql_resolve_item *ret_item)
{
    struct ql_entry entry;
    struct qbatch batch;
    enum q_err err = ql_index_entry(&store->index, group->subject, sequence, &entry);
    if (err < Q_OK) return err;
    if (err != Q_OK || entry.first_sequence > sequence)
        return Q_FAIL(
            Q_GONE,
            .what = q_text(
                "message %llu of \"%s\" is not stored any more", (unsigned long long)sequence,
                group->subject->name),
            .hint = "qmq dlq resend publishes a copy of its dead letter");
    err = ql_fetch_envelope(store, group, &entry, &batch);
    if (err == Q_AGAIN)
        return Q_FAIL(
            Q_BUSY, .what = q_text(
                        "message %llu is being read from the disk", (unsigned long long)sequence));
    if (err != Q_OK) return err;
    struct qbatch_entry message;
    qbatch_entry_at(&batch, (uint32_t)(sequence - entry.first_sequence), &message);
    *ret_item = (struct ql_resolve_item){ sequence, sequence, message.order_key_hash };
    return Q_OK;
}

static bool
group_has(const struct ql_group *group, uint64_t sequence)
{
    uint32_t at = ql_spans_find(&group->pending, sequence);
    if (at < group->pending.count && ql_span_at(&group->pending, at)->sequence <= sequence)
        return true;
    for (uint32_t i = 0; i < group->consumer_count; i++) {
        const struct ql_consumer *consumer = group->consumers[i];
        for (uint32_t j = 0; consumer != NULL && j < consumer->held.count; j++) {
            const struct ql_range_item *held = ql_span_at(&consumer->held, j);
            if (sequence - held->sequence < held->count) return true;
        }
    }
    return false;
}

static enum q_err
control_delete(struct qlog_store *store, struct qlog_control *control, struct ql_group *group)
{
    Q_TRY(ql_store_delete_group(store, group, &control->request));
    return Q_AGAIN;
}
