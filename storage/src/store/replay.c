/*
 * store/replay.c: the store's state from its logs: recovery applies what live traffic applied.
 */
#include <string.h>

#include <qbase/assert.h>

#include "log/index_scan.h"
#include "planted.h"
#include "store/store.h"

static enum q_err recover_messages(struct qlog_store *store);
static enum q_err recover_begin_segment(
    struct qlog_store *store,
    const struct ql_segment *segment,
    struct ql_recover *last,
    struct ql_recover *ret_range);
static uint64_t recover_messages_replay(const struct qlog_store *store);
static void recover_tell_rot(
    struct qlog_store *store, uint64_t from, uint64_t to, const char *what);
static enum q_err recover_names(struct qlog_store *store);
static enum q_err store_apply_names(void *context, const struct ql_scan *scan);
static enum q_err store_apply_messages(void *context, const struct ql_scan *scan);
static enum q_err store_apply_actions(void *context, const struct ql_scan *scan);
static void store_on_rot(void *context, uint64_t from, uint64_t to, enum ql_scan_state state);
static void store_on_message_rot(
    void *context, uint64_t from, uint64_t to, enum ql_scan_state state);
static void store_on_action_rot(
    void *context, uint64_t from, uint64_t to, enum ql_scan_state state);
static enum q_err store_void(
    struct qlog_store *store, struct ql_group *group, uint64_t *ret_voided);
static enum q_err store_void_spans(
    struct qlog_store *store,
    struct ql_group *group,
    const struct ql_spans *spans,
    uint64_t *voided);

/*
 * Message log and index first: actions speak of its sequences. All that is read here has to be read:
 * sequences, requests and actions that a start does not know of would be given, stored and applied
 * again, and the next start, which may be able to read them, would find both.
 */
enum q_err
ql_store_recover(struct qlog_store *store)
{
    struct ql_recover recover;
    Q_TRY(recover_messages(store));
    ql_home_recover_init(store->home, QL_LOG_ACTION, &recover);
    recover.context = store;
    recover.whole = true;
    recover.on_frame = store_apply_actions;
    recover.on_rot = store_on_action_rot;
    recover.from = q_max_u64(recover.from, recover.marks.replay);
    /* Behind damage, the durable mark may be told first by what was written after the next flush. */
    recover.flight_bytes =
        (uint64_t)QL_DEPTH_MAX * QL_ACTION_FRAME_MAX + 2 * store->home->env.async_flush_bytes;
    store->replayed_actions = recover.from;
    store->session_count = store->home->super.sessions;
    store->forgotten_pulls = store->home->super.pulls * (uint64_t)QL_PULLS_UNIT;
    Q_TRY(ql_home_recover(store->home, QL_LOG_ACTION, &recover));
    store->statements.messages_from = recover_messages_replay(store);
    store->statements.actions_end = recover.from;
    store->statements.ended_ns = store->now_ns;
    Q_TRY(ql_producers_recover(store));
    return recover_names(store);
}

/*
 * Segment by segment: what a whole index file covers is not read. What lies behind the file of the
 * last one is the log's end, which home decides on.
 */
static enum q_err
recover_messages(struct qlog_store *store)
{
    const struct ql_segment_set *segments = &store->messages->segments;
    struct ql_index *index = &store->index;
    Q_TRY(ql_index_files_open(&index->files));
    struct ql_recover recover;
    ql_home_recover_init(store->home, QL_LOG_MESSAGE, &recover);
    recover.context = store;
    recover.whole = true;
    recover.on_frame = store_apply_messages;
    recover.on_rot = store_on_message_rot;
    for (uint32_t i = 0; i < segments->count; i++) {
        const struct ql_segment *segment = segments->segments[i];
        const struct ql_segment *next = ql_segment_set_next(segments, segment->base);
        struct ql_recover range;
        Q_TRY(recover_begin_segment(store, segment, &recover, &range));
        if (next == NULL) break;
        if (range.from < next->base) {
            range.marks.durable = next->base;
            Q_TRY(ql_recover(&range));
            struct ql_index_header header = index->head;
            header.end = next->base;
            header.chain = range.chain;
            header.generation = range.scan.generation;
            header.wall_ms = range.wall_ms;
            header.sealed = range.sealed;
            Q_TRY(ql_index_files_cut(&index->files, &header, index->entries.end));
            /* What is in files lies before what is in memory, and memory is bounded. But when only the
             * end of the log follows, and has no file, this one can be made while the store runs. */
            bool wait =
                i + 2 == segments->count && ql_index_files_of(&index->files, next->base) == NULL;
            if (!wait) ql_index_files_flush(&index->files, &index->entries);
        }
        recover.from = next->base;
    }
    store->messages_read = recover.from;
    /* Index files stand for durable frames alone, and a segment is begun when the one before is durable. */
    recover.marks.durable = q_max_u64(recover.marks.durable, recover.from);
    Q_TRY(ql_home_recover(store->home, QL_LOG_MESSAGE, &recover));
    index->recovered_end = recover.end;
    index->recovered_generation = recover.scan.generation;
    return Q_OK;
}

/*
 * What its file knows is taken over, if there is one; `last` and `range` go on behind it. Segments
 * that are missing before it are rot.
 */
static enum q_err
recover_begin_segment(
    struct qlog_store *store,
    const struct ql_segment *segment,
    struct ql_recover *last,
    struct ql_recover *ret_range)
{
    struct ql_env *env = &store->home->env;
    struct ql_index *index = &store->index;
    const char *log = store->messages->name;
    const struct ql_segment_set *segments = &store->messages->segments;
    struct ql_index_header header;
    ql_index_header_of(env, log, segment, &header);
    struct ql_index_file *file = ql_index_files_of(&index->files, segment->base);
    const struct ql_segment *next = ql_segment_set_next(segments, segment->base);
    bool whole = file != NULL && next != NULL && file->view.header.end == next->base;
    /* What lies below the place that the superblock names was said by statements. */
    if (file != NULL && (!whole || next->base > recover_messages_replay(store))) {
        enum q_err err = ql_index_learn(index, file);
        if (err < Q_OK && !ql_index_is_damaged(err)) return err;
        if (err != Q_OK) {
            ql_index_files_drop(&index->files, file, "damaged; its segment is read");
            file = NULL;
        }
    }
    /* Only where the log is known to go on: a first segment that is missing is the log's affair. */
    bool more = next != NULL;
    if (last->from < segment->base && (more || file != NULL))
        recover_tell_rot(store, last->from, segment->base, "segments are missing");
    if (last->from >= segment->base || more || file != NULL) last->from = segment->base;
    last->linked = false;
    if (file != NULL) {
        header = file->view.header;
        last->from = header.end;
        last->linked = true;
        if (header.rot_from < header.rot_to)
            recover_tell_rot(store, header.rot_from, header.rot_to, "as its index remembers");
    }
    last->chain = last->linked ? header.chain : 0;
    last->generation = last->linked ? header.generation : 0;
    last->wall_ms = last->linked ? header.wall_ms : 0;
    last->sealed = last->linked && header.sealed;
    ql_index_begin_segment(index, &header, last->from);
    ql_index_range_init(env, log, &store->messages->segments, last->from, last->from, ret_range);
    ret_range->context = store;
    ret_range->whole = true;
    ret_range->on_frame = last->on_frame;
    ret_range->on_rot = last->on_rot;
    ret_range->linked = last->linked;
    ret_range->chain = last->chain;
    ret_range->generation = last->generation;
    ret_range->wall_ms = last->wall_ms;
    ret_range->sealed = last->sealed;
    return Q_OK;
}

/* Sequences of messages below are in statements of the action log. */
static uint64_t
recover_messages_replay(const struct qlog_store *store)
{
    const struct ql_home *home = store->home;
    return home->super_found ? home->super.logs[QL_LOG_MESSAGE].replay : 0;
}

static void
recover_tell_rot(struct qlog_store *store, uint64_t from, uint64_t to, const char *what)
{
    QL_TELL(
        &store->home->env, ROT, .log = store->messages->name, .path = store->home->env.path,
        .position = from, .bytes = to - from,
        .text = q_text("damaged below the durable mark: %s", what));
    store->damaged = true;
}

static bool
store_has_unnamed(const struct qlog_store *store)
{
    for (uint32_t i = 0; i < store->index.count; i++)
        if (store->index.subjects[i] != NULL && store->index.subjects[i]->unnamed) return true;
    return false;
}

/* The action log names subjects, but it may be damaged. The message log names them once more. */
static enum q_err
recover_names(struct qlog_store *store)
{
    if (!store_has_unnamed(store)) return Q_OK;
    const struct ql_log *log = store->messages;
    struct ql_recover recover;
    ql_index_range_init(
        &store->home->env, log->name, &log->segments, log->segments.segments[0]->base, log->tail,
        &recover);
    recover.context = store;
    recover.whole = true;
    recover.on_frame = store_apply_names;
    return ql_recover(&recover);
}

static enum q_err
store_apply_names(void *context, const struct ql_scan *scan)
{
    struct qlog_store *store = context;
    struct ql_record_walk walk = { .records = scan->records, .payloads = scan->payloads };
    struct ql_record record;
    enum q_err err;
    while ((err = ql_record_next(&walk, &record)) == Q_OK) {
        struct ql_subject_record subject;
        if (record.kind != QL_RECORD_SUBJECT) continue;
        if (ql_subject_record_decode(record.bytes, &subject) != Q_OK) continue;
        const struct ql_subject *known = ql_index_get(&store->index, subject.subject_id);
        if (known == NULL || !known->unnamed) continue;
        err = ql_index_apply_subject(&store->index, &subject);
        if (err == Q_E_NOMEM) return err;
    }
    return err == Q_END ? Q_OK : err;
}

/* From here on records may speak of what the damage took: they are passed over and counted. */
static void
store_on_rot(void *context, uint64_t from, uint64_t to, enum ql_scan_state state)
{
    (void)from;
    (void)to;
    (void)state;
    struct qlog_store *store = context;
    store->damaged = true;
}

static void
store_on_message_rot(void *context, uint64_t from, uint64_t to, enum ql_scan_state state)
{
    struct qlog_store *store = context;
    store_on_rot(store, from, to, state);
    ql_index_add_rot(&store->index.head, from, to);
}

static void
store_on_action_rot(void *context, uint64_t from, uint64_t to, enum ql_scan_state state)
{
    struct qlog_store *store = context;
    store_on_rot(store, from, to, state);
    for (uint32_t i = 0; i < store->group_count; i++)
        if (store->groups[i] != NULL) ql_group_note_hole(store->groups[i]);
}

typedef enum q_err apply_fn(
    struct qlog_store *store, const struct ql_scan *scan, const struct ql_record *record);

#define QL_APPLY_DECLARE(name, number, stem, log)                                                  \
    static enum q_err apply_##stem(                                                                \
        struct qlog_store *store, const struct ql_scan *scan, const struct ql_record *record);
QL_RECORD_LIST(QL_APPLY_DECLARE)
#undef QL_APPLY_DECLARE

static const struct {
    unsigned kind;
    const char *log;
    apply_fn *apply;
} appliers[] = {
#define QL_APPLY_ROW(name, number, stem, log) { (number), (log), apply_##stem },
    QL_RECORD_LIST(QL_APPLY_ROW)
#undef QL_APPLY_ROW
};

static enum q_err
store_apply_frame(struct qlog_store *store, const struct ql_scan *scan, const char *log)
{
    struct ql_record_walk walk = { .records = scan->records, .payloads = scan->payloads };
    for (;;) {
        struct ql_record record;
        enum q_err err = ql_record_next(&walk, &record);
        if (err == Q_END) return Q_OK;
        if (err != Q_OK) return err;
        apply_fn *apply = NULL;
        for (size_t i = 0; i < sizeof(appliers) / sizeof(appliers[0]); i++) {
            if (appliers[i].kind != record.kind) continue;
            bool here = strcmp(appliers[i].log, log) == 0 || strcmp(appliers[i].log, "any") == 0;
            if (here) apply = appliers[i].apply;
        }
        if (apply == NULL)
            err = Q_FAIL(
                Q_E_CORRUPT, .what = q_text("record kind %u in the %s log", record.kind, log));
        else
            err = apply(store, scan, &record);
        if (err == Q_E_CORRUPT && store->damaged) {
            store->passed_over++;
            continue;
        }
        if (err != Q_OK)
            return Q_FAIL(
                err, .path = store->home->env.path, .position = (int64_t)scan->frame.position,
                .what = q_text("%s log: %s", log, q_fault_last()->what));
    }
}

static enum q_err
store_apply_messages(void *context, const struct ql_scan *scan)
{
    return store_apply_frame(context, scan, "message");
}

static enum q_err
store_apply_actions(void *context, const struct ql_scan *scan)
{
    return store_apply_frame(context, scan, "action");
}

static enum q_err
apply_batch(struct qlog_store *store, const struct ql_scan *scan, const struct ql_record *record)
{
    return ql_publish_replay(store, scan, record);
}

static enum q_err
apply_subject(struct qlog_store *store, const struct ql_scan *scan, const struct ql_record *record)
{
    struct ql_subject_record subject;
    Q_TRY(ql_subject_record_decode(record->bytes, &subject));
    Q_TRY(ql_index_apply_subject(&store->index, &subject));
    if (scan->segments == &store->actions->segments) {
        struct ql_subject *stated = ql_index_get(&store->index, subject.subject_id);
        stated->stated_at = scan->frame.position;
        stated->stated_next = subject.next_sequence;
    }
    return Q_OK;
}

static enum q_err
apply_producer(struct qlog_store *store, const struct ql_scan *scan, const struct ql_record *record)
{
    struct ql_producer_record producer;
    Q_TRY(ql_producer_record_decode(record->bytes, &producer));
    return ql_producers_apply_statement(store, &producer, scan->frame.position);
}

static enum q_err
apply_group(struct qlog_store *store, const struct ql_scan *scan, const struct ql_record *record)
{
    struct ql_group_record group_record;
    Q_TRY(ql_group_record_decode(record->bytes, &group_record));
    /* The subject's own record may have been lost with a later part of the message log. */
    struct ql_subject_record subject = {
        .subject_id = group_record.subject_id,
        .name = group_record.subject,
    };
    const struct ql_subject *known = ql_index_get(&store->index, group_record.subject_id);
    if (known == NULL || known->unnamed) Q_TRY(ql_index_apply_subject(&store->index, &subject));
    struct ql_group *group = ql_store_group(store, group_record.group_id);
    if (group == NULL)
        Q_TRY(ql_store_add_group(store, &group_record, &group));
    else
        group->restoring = false; /* known from older records: the state that follows is old news */
    if (!q_bytes_equal(q_bytes_from(group->name, group->name_size), group_record.name) ||
        group->subject->id != group_record.subject_id)
        return Q_FAIL(
            Q_E_CORRUPT,
            .what = q_text("group id %u stands for two groups", group_record.group_id));
    group->stated_at = scan->frame.position;
    return Q_OK;
}

/*
 * The group of an action. NULL with Q_OK: its making lies in a dropped head, or before the place from
 * which the log is read; its state comes later, and this action's effect is in it.
 */
static struct ql_group *
apply_find_group(const struct qlog_store *store, uint32_t id, enum q_err *ret_err)
{
    struct ql_group *group = ql_store_group(store, id);
    *ret_err = Q_OK;
    if (group == NULL && store->replayed_actions == 0)
        *ret_err = Q_FAIL(Q_E_CORRUPT, .what = q_text("an action of the unknown group %u", id));
    return group;
}

/* A session number is given once, also when the generation stays what it is. */
static void
store_note_session(struct qlog_store *store, uint64_t session)
{
    uint32_t count = (uint32_t)session;
    if (session >> 32 == store->home->env.generation && count > store->session_count)
        store->session_count = count;
}

static enum q_err
apply_join(struct qlog_store *store, const struct ql_scan *scan, const struct ql_record *record)
{
    struct ql_join_record join;
    Q_TRY(ql_join_record_decode(record->bytes, &join));
    (void)scan;
    enum q_err err;
    struct ql_group *group = apply_find_group(store, join.group_id, &err);
    if (group == NULL) return err;
    store_note_session(store, join.session);
    return ql_group_apply_join(group, &join);
}

/* What needs nothing but the group. */
#define APPLY_TO_GROUP(stem, type, id)                                                             \
    static enum q_err apply_##stem(                                                                \
        struct qlog_store *store, const struct ql_scan *scan, const struct ql_record *record)      \
    {                                                                                              \
        struct ql_##type##_record decoded;                                                         \
        Q_TRY(ql_##type##_record_decode(record->bytes, &decoded));                                 \
        (void)scan;                                                                                \
        enum q_err err;                                                                            \
        struct ql_group *group = apply_find_group(store, decoded.id, &err);                        \
        return group == NULL ? err : ql_group_apply_##stem(group, &decoded);                       \
    }

APPLY_TO_GROUP(pull, pull, group_id)
APPLY_TO_GROUP(ack, ack, group_id)
APPLY_TO_GROUP(nack, nack, ack.group_id)
APPLY_TO_GROUP(release, release, group_id)
APPLY_TO_GROUP(timeout, timeout, group_id)
APPLY_TO_GROUP(seek, seek, group_id)
APPLY_TO_GROUP(settings, settings, group_id)
APPLY_TO_GROUP(unfilter, unfilter, group_id)
APPLY_TO_GROUP(resolve, resolve, group_id)
APPLY_TO_GROUP(held, ranges, group_id)
APPLY_TO_GROUP(pending, ranges, group_id)
APPLY_TO_GROUP(error, error, group_id)
APPLY_TO_GROUP(cursor, cursor, group_id)
#undef APPLY_TO_GROUP

static enum q_err
apply_delete(struct qlog_store *store, const struct ql_scan *scan, const struct ql_record *record)
{
    struct ql_delete_record decoded;
    Q_TRY(ql_delete_record_decode(record->bytes, &decoded));
    (void)scan;
    enum q_err err;
    struct ql_group *group = apply_find_group(store, decoded.group_id, &err);
    if (group != NULL) ql_store_remove_group(store, group);
    return err;
}

static enum q_err
apply_consumer(struct qlog_store *store, const struct ql_scan *scan, const struct ql_record *record)
{
    struct ql_consumer_record consumer;
    Q_TRY(ql_consumer_record_decode(record->bytes, &consumer));
    (void)scan;
    enum q_err err;
    struct ql_group *group = apply_find_group(store, consumer.group_id, &err);
    if (group == NULL) return err;
    store_note_session(store, consumer.session);
    return ql_group_apply_consumer(group, &consumer);
}

static enum q_err
apply_bytes(struct qlog_store *store, const struct ql_scan *scan, const struct ql_record *record)
{
    (void)store;
    (void)scan;
    (void)record;
    return Q_FAIL(Q_E_CORRUPT, .what = "a program's own record in a store");
}

/*
 * What the logs alone don't say. Hand-outs of messages that are not there (lost with the power,
 * dropped, damaged) are void. Their sequences are never given out again: old actions speak of them,
 * and would be taken for actions on new messages. Every consumer gets its full time.
 */
enum q_err
ql_store_finish_recovery(struct qlog_store *store)
{
    uint64_t voided = 0;
    for (uint32_t i = 0; i < store->group_count; i++) {
        struct ql_group *group = store->groups[i];
        if (group == NULL) continue;
        group->hole = false;
        group->restoring = false;
        if (!QL_PLANTED(void_applied)) Q_TRY(store_void(store, group, &voided));
        group->seen_ns = store->now_ns;
        ql_group_refresh_due(group);
        if (group->pending_by[QL_REASON_DYING] > 0) ql_group_watch_pending(store, group);
        if (group->broadcast || group->pending.count > 0 || group->filters.count > 1)
            ql_group_watch(store, group, store->now_ns);
        for (uint32_t j = 0; j < group->consumer_count; j++) {
            struct ql_consumer *consumer = group->consumers[j];
            if (consumer == NULL) continue;
            ql_consumer_seen(store, consumer);
            uint64_t next_ms = ql_consumer_next_timeout(consumer);
            if (next_ms != UINT64_MAX) ql_consumer_time(store, consumer, next_ms);
        }
        ql_group_check(group);
    }
    for (uint32_t i = 0; i < store->group_count; i++) {
        const struct ql_group *group = store->groups[i];
        if (group == NULL) continue;
        group->subject->next_sequence = q_max_u64(group->subject->next_sequence, group->cursor);
    }
    if (voided > 0 || store->passed_over > 0)
        QL_TELL(
            &store->home->env, VOID_ACTIONS, .log = "action", .path = store->home->env.path,
            .bytes = voided,
            .text = q_text(
                "%llu messages that groups had in hand are not stored any more; %llu records "
                "were passed over behind damage",
                (unsigned long long)voided, (unsigned long long)store->passed_over));
    return Q_OK;
}

/* Whether [from, to) holds messages without an entry: the first such range. */
static enum q_err
store_gap(
    struct qlog_store *store,
    struct ql_subject *subject,
    uint64_t from,
    uint64_t to,
    struct qlog_range *ret_gap)
{
    while (from < to) {
        struct ql_entry entry;
        enum q_err err = ql_index_entry(&store->index, subject, from, &entry);
        if (err < Q_OK) return err;
        uint64_t next = err == Q_OK ? entry.first_sequence : UINT64_MAX;
        if (next > from) {
            *ret_gap = (struct qlog_range){ from, q_min_u64(to, next) - 1 };
            return Q_OK;
        }
        from = ql_entry_end(&entry);
    }
    return Q_NOT_FOUND;
}

/*
 * Everything that a group has in hand without an entry: what a dropped head, damage, or power loss
 * took, also one that an earlier start met.
 */
static enum q_err
store_void(struct qlog_store *store, struct ql_group *group, uint64_t *voided)
{
    Q_TRY(store_void_spans(store, group, &group->pending, voided));
    for (uint32_t i = 0; i < group->consumer_count; i++)
        if (group->consumers[i] != NULL)
            Q_TRY(store_void_spans(store, group, &group->consumers[i]->held, voided));
    return Q_OK;
}

static enum q_err
store_void_spans(
    struct qlog_store *store,
    struct ql_group *group,
    const struct ql_spans *spans,
    uint64_t *voided)
{
    struct qlog_range gap;
    for (uint32_t i = 0; i < spans->count;) {
        const struct ql_range_item *item = ql_span_at(spans, i);
        enum q_err err =
            store_gap(store, group->subject, item->sequence, item->sequence + item->count, &gap);
        if (err < Q_OK) return err;
        uint64_t dropped = err == Q_OK ? ql_group_drop(group, gap.first, gap.last + 1) : 0;
        *voided += dropped;
        if (dropped == 0) i++;
    }
    return Q_OK;
}
