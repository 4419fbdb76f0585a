#include "look/audit.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "format/record.h"

enum {
    TABLE_FIRST = 64,
    IDS_MAX = 16 * 1024 * 1024, /* above what any store gives out: the number is made up */
    PULL_FLOOR_SHIFT = 40,      /* as ql_store_finish_recovery() */
};

static enum q_err audit_need_subject(
    struct ql_audit *audit, uint32_t id, struct ql_audit_subject **ret_subject);
static enum q_err audit_name(
    struct ql_audit *audit, const char *log, uint64_t position, uint32_t id, struct q_bytes name);
static void audit_batch(
    struct ql_audit *audit, struct ql_audit_subject *subject, const struct ql_digest *digest);
static enum q_err audit_apply(struct ql_audit *audit, const struct qlog_record *record);
static enum q_err audit_group(struct ql_audit *audit, const struct qlog_record *record);
static enum q_err audit_need_group(struct ql_audit *audit, uint32_t id);
static struct ql_audit_group *audit_find_group(
    struct ql_audit *audit, const struct qlog_record *record, uint32_t id);
static void audit_sequences(
    struct ql_audit *audit,
    const struct qlog_record *record,
    const struct ql_audit_group *group,
    uint64_t end);
static void audit_acks(
    struct ql_audit *audit,
    const struct qlog_record *record,
    const struct ql_group *group,
    const struct ql_ack_record *ack);
static void audit_hands(struct ql_audit *audit, const struct ql_audit_group *group);
static int compare_ranges(const void *a, const void *b);
static void Q_PRINTF(4, 5)
    audit_tell(struct ql_audit *audit, const char *log, uint64_t position, const char *format, ...);

void
ql_audit_init(struct ql_audit *audit)
{
    *audit = (struct ql_audit){ 0 };
}

void
ql_audit_fini(struct ql_audit *audit)
{
    for (uint32_t i = 0; i < audit->subject_count; i++) {
        if (audit->subjects[i] != NULL) free(audit->subjects[i]->name);
        free(audit->subjects[i]);
    }
    free(audit->subjects);
    for (uint32_t i = 0; i < audit->group_count; i++)
        ql_group_free(audit->groups[i].group);
    free(audit->groups);
    *audit = (struct ql_audit){ 0 };
}

enum q_err
ql_digest_of(const struct qlog_record *record, uint64_t segment, struct ql_digest *ret_digest)
{
    struct ql_digest *digest = ret_digest;
    digest->kind = record->kind;
    digest->position = record->frame.value;
    digest->segment = segment;
    digest->generation = record->generation;
    if (record->kind == QL_RECORD_SUBJECT) {
        struct ql_subject_record subject;
        Q_TRY(ql_subject_record_decode(record->bytes, &subject));
        digest->subject_id = subject.subject_id;
        digest->sequence = subject.next_sequence;
        digest->name = subject.name;
        return Q_OK;
    }
    if (record->kind != QL_RECORD_BATCH) return Q_NOT_FOUND;
    struct qbatch batch;
    Q_TRY(qbatch_open(record->bytes, &batch));
    digest->subject_id = batch.subject_id;
    digest->sequence = batch.first_sequence;
    digest->count = batch.message_count;
    digest->stored_bytes = (uint32_t)q_align_up(batch.payload_length, 8);
    digest->envelope_bytes = batch.envelope_length;
    digest->store_ms = batch.store_time_ms;
    return Q_OK;
}

enum q_err
ql_audit_message(struct ql_audit *audit, const struct ql_digest *digest)
{
    if (digest->subject_id >= IDS_MAX) {
        audit_tell(
            audit, "message", digest->position, "subject id %u, which no store gives out",
            digest->subject_id);
        return Q_OK;
    }
    struct ql_audit_subject *subject;
    Q_TRY(audit_need_subject(audit, digest->subject_id, &subject));
    if (digest->kind == QL_RECORD_BATCH) {
        audit_batch(audit, subject, digest);
        return Q_OK;
    }
    Q_TRY(audit_name(audit, "message", digest->position, digest->subject_id, digest->name));
    subject->named_at = digest->position;
    subject->next_sequence = q_max_u64(subject->next_sequence, digest->sequence);
    return Q_OK;
}

static enum q_err
audit_need_subject(struct ql_audit *audit, uint32_t id, struct ql_audit_subject **ret_subject)
{
    if (id >= audit->subject_capacity) {
        uint32_t capacity = audit->subject_capacity == 0 ? TABLE_FIRST : audit->subject_capacity;
        while (capacity <= id)
            capacity *= 2;
        struct ql_audit_subject **subjects =
            realloc(audit->subjects, capacity * sizeof(struct ql_audit_subject *));
        if (subjects == NULL) return Q_FAIL(Q_E_NOMEM, .what = "table of subjects");
        audit->subjects = subjects;
        audit->subject_capacity = capacity;
    }
    while (audit->subject_count <= id)
        audit->subjects[audit->subject_count++] = NULL;
    if (audit->subjects[id] == NULL) {
        struct ql_audit_subject *subject = calloc(1, sizeof(*subject));
        if (subject == NULL) return Q_FAIL(Q_E_NOMEM, .what = "a subject");
        subject->id = id;
        audit->subjects[id] = subject;
    }
    *ret_subject = audit->subjects[id];
    return Q_OK;
}

static enum q_err
audit_name(
    struct ql_audit *audit, const char *log, uint64_t position, uint32_t id, struct q_bytes name)
{
    struct ql_audit_subject *subject;
    Q_TRY(audit_need_subject(audit, id, &subject));
    if (subject->name_size == 0) {
        char *copy = malloc(name.size + 1);
        if (copy == NULL) return Q_FAIL(Q_E_NOMEM, .what = "a subject's name");
        memcpy(copy, name.data, name.size);
        free(subject->name);
        subject->name = copy;
        subject->name_size = (uint8_t)name.size;
    } else if (!q_bytes_equal(ql_audit_name(subject), name)) {
        audit_tell(
            audit, log, position, "subject %u is \"%.*s\" here, and was \"%.*s\" before", id,
            (int)name.size, (const char *)name.data, (int)subject->name_size, subject->name);
    }
    return Q_OK;
}

static void
audit_batch(
    struct ql_audit *audit, struct ql_audit_subject *subject, const struct ql_digest *digest)
{
    bool damage_here = audit->damaged && digest->segment < audit->damage_seen;
    bool named = subject->name_size > 0 && subject->named_at >= digest->segment;
    if (!named && !damage_here)
        audit_tell(
            audit, "message", digest->position,
            "a batch of subject %u, which its segment does not name", subject->id);
    if (digest->sequence < subject->next_sequence)
        audit_tell(
            audit, "message", digest->position,
            "subject %u: sequence %" PRIu64 " is given twice, %" PRIu64 " is next", subject->id,
            digest->sequence, subject->next_sequence);
    /* Sequences that power loss took are never given out again: a gap, and a generation. */
    bool explained = audit->damaged || digest->generation > subject->generation;
    if (subject->messages > 0 && digest->sequence > subject->next_sequence && !explained)
        audit_tell(
            audit, "message", digest->position,
            "subject %u: sequences %" PRIu64 " to %" PRIu64 " are missing", subject->id,
            subject->next_sequence, digest->sequence - 1);
    if (subject->messages == 0) {
        subject->first_sequence = digest->sequence;
        subject->first_ms = digest->store_ms;
    }
    subject->next_sequence = q_max_u64(subject->next_sequence, digest->sequence + digest->count);
    subject->generation = digest->generation;
    subject->last_ms = digest->store_ms;
    subject->messages += digest->count;
    subject->batches++;
    subject->stored_bytes += digest->stored_bytes;
    subject->envelope_bytes += digest->envelope_bytes;
}

enum q_err
ql_audit_batches(struct ql_audit *audit, const struct ql_audit_batches *batches)
{
    struct ql_audit_subject *subject;
    if (batches->subject_id >= IDS_MAX) return Q_OK;
    Q_TRY(audit_need_subject(audit, batches->subject_id, &subject));
    if (subject->messages == 0) {
        subject->first_sequence = batches->first_sequence;
        subject->first_ms = batches->first_ms;
    }
    subject->next_sequence = q_max_u64(subject->next_sequence, batches->next_sequence);
    subject->generation = batches->generation;
    subject->last_ms = batches->last_ms;
    subject->messages += batches->messages;
    subject->batches += batches->batches;
    subject->stored_bytes += batches->stored_bytes;
    subject->envelope_bytes += batches->envelope_bytes;
    return Q_OK;
}

enum q_err
ql_audit_action(struct ql_audit *audit, const struct qlog_record *record)
{
    enum q_err err = audit_apply(audit, record);
    if (err != Q_E_CORRUPT) return err;
    /* Behind damage, records may not follow from what is left. */
    if (!audit->damaged)
        audit_tell(
            audit, "action", record->frame.value, "%s: %s", qlog_record_name(record),
            q_fault_last()->what);
    return Q_OK;
}

/* The group of an action; the record goes to the same function that a store calls. */
#define AUDIT_APPLY(stem)                                                                          \
    struct ql_##stem##_record decoded;                                                             \
    Q_TRY(ql_##stem##_record_decode(record->bytes, &decoded));                                     \
    const struct ql_audit_group *found = audit_find_group(audit, record, decoded.group_id);        \
    if (found == NULL) return Q_OK

static enum q_err
apply_join(struct ql_audit *audit, const struct qlog_record *record)
{
    AUDIT_APPLY(join);
    return ql_group_apply_join(found->group, &decoded);
}

static enum q_err
apply_pull(struct ql_audit *audit, const struct qlog_record *record)
{
    AUDIT_APPLY(pull);
    uint64_t end = decoded.cursor;
    for (uint32_t i = 0; i < decoded.run_count; i++) {
        struct ql_pull_run run = ql_pull_run_at(&decoded, i);
        end = q_max_u64(end, run.sequence + run.count);
    }
    audit_sequences(audit, record, found, end);
    return ql_group_apply_pull(found->group, &decoded);
}

static enum q_err
apply_ack(struct ql_audit *audit, const struct qlog_record *record)
{
    AUDIT_APPLY(ack);
    audit_acks(audit, record, found->group, &decoded);
    return ql_group_apply_ack(found->group, &decoded);
}

static enum q_err
apply_nack(struct ql_audit *audit, const struct qlog_record *record)
{
    struct ql_nack_record decoded;
    Q_TRY(ql_nack_record_decode(record->bytes, &decoded));
    const struct ql_audit_group *found = audit_find_group(audit, record, decoded.ack.group_id);
    if (found == NULL) return Q_OK;
    audit_acks(audit, record, found->group, &decoded.ack);
    return ql_group_apply_nack(found->group, &decoded);
}

/* Those of which there is nothing to check but that they follow. */
#define AUDIT_GROUP(stem)                                                                          \
    static enum q_err apply_##stem(struct ql_audit *audit, const struct qlog_record *record)       \
    {                                                                                              \
        AUDIT_APPLY(stem);                                                                         \
        return ql_group_apply_##stem(found->group, &decoded);                                      \
    }

AUDIT_GROUP(release)
AUDIT_GROUP(timeout)
AUDIT_GROUP(seek)
AUDIT_GROUP(settings)
AUDIT_GROUP(unfilter)
AUDIT_GROUP(resolve)
AUDIT_GROUP(error)
#undef AUDIT_GROUP

static enum q_err
apply_delete(struct ql_audit *audit, const struct qlog_record *record)
{
    AUDIT_APPLY(delete);
    ql_group_free(found->group);
    audit->groups[decoded.group_id].group = NULL;
    return Q_OK;
}

static enum q_err
apply_consumer(struct ql_audit *audit, const struct qlog_record *record)
{
    AUDIT_APPLY(consumer);
    return ql_group_apply_consumer(found->group, &decoded);
}

static uint64_t
ranges_end(const struct ql_ranges_record *ranges)
{
    uint64_t end = 0;
    for (uint32_t i = 0; i < ranges->item_count; i++) {
        struct ql_range_item item = ql_range_item_at(ranges, i);
        end = q_max_u64(end, item.sequence + item.count);
    }
    return end;
}

static enum q_err
apply_held(struct ql_audit *audit, const struct qlog_record *record)
{
    AUDIT_APPLY(ranges);
    audit_sequences(audit, record, found, ranges_end(&decoded));
    return ql_group_apply_held(found->group, &decoded);
}

static enum q_err
apply_pending(struct ql_audit *audit, const struct qlog_record *record)
{
    AUDIT_APPLY(ranges);
    audit_sequences(audit, record, found, ranges_end(&decoded));
    return ql_group_apply_pending(found->group, &decoded);
}

static enum q_err
apply_cursor(struct ql_audit *audit, const struct qlog_record *record)
{
    AUDIT_APPLY(cursor);
    audit_sequences(audit, record, found, decoded.cursor);
    return ql_group_apply_cursor(found->group, &decoded);
}

static enum q_err
apply_subject(struct ql_audit *audit, const struct qlog_record *record)
{
    struct ql_subject_record subject;
    Q_TRY(ql_subject_record_decode(record->bytes, &subject));
    if (subject.subject_id >= IDS_MAX)
        return Q_FAIL(Q_E_CORRUPT, .what = q_text("the id %u", subject.subject_id));
    Q_TRY(audit_name(audit, "action", record->frame.value, subject.subject_id, subject.name));
    struct ql_audit_subject *known = audit->subjects[subject.subject_id];
    known->next_sequence = q_max_u64(known->next_sequence, subject.next_sequence);
    return Q_OK;
}

static enum q_err
audit_apply(struct ql_audit *audit, const struct qlog_record *record)
{
    switch (record->kind) {
    case QL_RECORD_SUBJECT:
        return apply_subject(audit, record);
    case QL_RECORD_PRODUCER: {
        struct ql_producer_record producer;
        return ql_producer_record_decode(record->bytes, &producer);
    }
    case QL_RECORD_GROUP:
        return audit_group(audit, record);
    case QL_RECORD_JOIN:
        return apply_join(audit, record);
    case QL_RECORD_PULL:
        return apply_pull(audit, record);
    case QL_RECORD_ACK:
        return apply_ack(audit, record);
    case QL_RECORD_RELEASE:
        return apply_release(audit, record);
    case QL_RECORD_CONSUMER:
        return apply_consumer(audit, record);
    case QL_RECORD_HELD:
        return apply_held(audit, record);
    case QL_RECORD_PENDING:
        return apply_pending(audit, record);
    case QL_RECORD_CURSOR:
        return apply_cursor(audit, record);
    case QL_RECORD_NACK:
        return apply_nack(audit, record);
    case QL_RECORD_TIMEOUT:
        return apply_timeout(audit, record);
    case QL_RECORD_SEEK:
        return apply_seek(audit, record);
    case QL_RECORD_SETTINGS:
        return apply_settings(audit, record);
    case QL_RECORD_DELETE:
        return apply_delete(audit, record);
    case QL_RECORD_UNFILTER:
        return apply_unfilter(audit, record);
    case QL_RECORD_RESOLVE:
        return apply_resolve(audit, record);
    case QL_RECORD_ERROR:
        return apply_error(audit, record);
    default:
        return Q_FAIL(Q_E_CORRUPT, .what = q_text("kind %u is none of an action", record->kind));
    }
}

static enum q_err
audit_group(struct ql_audit *audit, const struct qlog_record *record)
{
    struct ql_group_record decoded;
    Q_TRY(ql_group_record_decode(record->bytes, &decoded));
    if (decoded.group_id >= IDS_MAX || decoded.subject_id >= IDS_MAX)
        return Q_FAIL(
            Q_E_CORRUPT, .what = q_text("ids %u and %u", decoded.group_id, decoded.subject_id));
    Q_TRY(audit_name(audit, "action", record->frame.value, decoded.subject_id, decoded.subject));
    Q_TRY(audit_need_group(audit, decoded.group_id));
    struct ql_audit_group *found = &audit->groups[decoded.group_id];
    if (found->group == NULL) {
        found->subject_id = decoded.subject_id;
        Q_TRY(ql_group_new(&decoded, NULL, NULL, &found->group));
        audit_sequences(audit, record, found, decoded.cursor);
        return Q_OK;
    }
    /* Known from older records: the state that follows is old news. */
    found->group->restoring = false;
    struct q_bytes name = q_bytes_from(found->group->name, found->group->name_size);
    if (!q_bytes_equal(name, decoded.name) || found->subject_id != decoded.subject_id)
        return Q_FAIL(
            Q_E_CORRUPT, .what = q_text("group id %u stands for two groups", decoded.group_id));
    return Q_OK;
}

static enum q_err
audit_need_group(struct ql_audit *audit, uint32_t id)
{
    if (id >= audit->group_capacity) {
        uint32_t capacity = audit->group_capacity == 0 ? TABLE_FIRST : audit->group_capacity;
        while (capacity <= id)
            capacity *= 2;
        struct ql_audit_group *groups = realloc(audit->groups, capacity * sizeof(*groups));
        if (groups == NULL) return Q_FAIL(Q_E_NOMEM, .what = "table of groups");
        audit->groups = groups;
        audit->group_capacity = capacity;
    }
    while (audit->group_count <= id)
        audit->groups[audit->group_count++] = (struct ql_audit_group){ 0 };
    return Q_OK;
}

/* NULL: its making lies in a dropped head, and it is stated later; or it is nowhere. */
static struct ql_audit_group *
audit_find_group(struct ql_audit *audit, const struct qlog_record *record, uint32_t id)
{
    if (id < audit->group_count && audit->groups[id].group != NULL) return &audit->groups[id];
    if (audit->damaged) return NULL;
    if (audit->action_first == 0) {
        audit_tell(
            audit, "action", record->frame.value, "%s of group %u, which was never made",
            qlog_record_name(record), id);
        return NULL;
    }
    if (audit->unstated++ == 0) {
        audit->unstated_at = record->frame.value;
        audit->unstated_group = id;
    }
    return NULL;
}

/* Messages below `end` were there when the action was written. */
static void
audit_sequences(
    struct ql_audit *audit,
    const struct qlog_record *record,
    const struct ql_audit_group *group,
    uint64_t end)
{
    /* What was async, and pulled, may have gone with the power. */
    bool lost = record->generation < audit->generation || audit->unclean;
    if (audit->live || audit->damaged || lost) return;
    const struct ql_audit_subject *subject = audit->subjects[group->subject_id];
    if (end <= subject->next_sequence) return;
    audit_tell(
        audit, "action", record->frame.value,
        "%s of group \"%.*s\" speaks of sequence %" PRIu64 " of \"%.*s\", which has %" PRIu64,
        qlog_record_name(record), (int)group->group->name_size, group->group->name, end - 1,
        (int)subject->name_size, subject->name, subject->next_sequence);
}

/* Only what was handed out can be done. */
static void
audit_acks(
    struct ql_audit *audit,
    const struct qlog_record *record,
    const struct ql_group *group,
    const struct ql_ack_record *ack)
{
    const struct ql_consumer *consumer = ql_group_consumer(group, ack->consumer_id);
    if (consumer == NULL || audit->damaged) return;
    /* An unclean start gives no number again that may have been given before it. */
    uint64_t next = q_max_u64(consumer->next_pull_sequence, record->generation << PULL_FLOOR_SHIFT);
    for (uint32_t i = 0; i < ack->range_count; i++) {
        struct qlog_range range = ql_ack_range_at(ack, i);
        if (range.first <= range.last && range.last < next) continue;
        audit_tell(
            audit, "action", record->frame.value,
            "ACK of group \"%.*s\": pull sequences %" PRIu64 " to %" PRIu64
            " of \"%.*s\" were never handed out",
            (int)group->name_size, group->name, range.first, range.last, (int)consumer->name_size,
            consumer->name);
    }
}

void
ql_audit_damage(struct ql_audit *audit, bool action_log, uint64_t to)
{
    audit->damaged = true;
    if (!action_log) {
        audit->damage_seen = q_max_u64(audit->damage_seen, to);
        return;
    }
    for (uint32_t i = 0; i < audit->group_count; i++)
        if (audit->groups[i].group != NULL) ql_group_note_hole(audit->groups[i].group);
}

void
ql_audit_end(struct ql_audit *audit)
{
    bool stated = audit->unstated_group < audit->group_count &&
                  audit->groups[audit->unstated_group].group != NULL;
    if (audit->unstated > 0 && !stated && !audit->live && !audit->damaged)
        audit_tell(
            audit, "action", audit->unstated_at,
            "an action of group %u, which is neither made nor stated anywhere",
            audit->unstated_group);
    for (uint32_t i = 0; i < audit->group_count; i++) {
        const struct ql_audit_group *group = &audit->groups[i];
        if (group->group == NULL) continue;
        audit_hands(audit, group);
        const struct ql_audit_subject *subject = audit->subjects[group->subject_id];
        uint64_t first = subject->messages == 0 ? subject->next_sequence : subject->first_sequence;
        (void)ql_group_drop(group->group, 0, first);
        if (!audit->live) (void)ql_group_drop(group->group, subject->next_sequence, UINT64_MAX);
    }
}

struct range {
    uint64_t from;
    uint64_t to;
};

/* No message is in two hands, and none above the cursor is in any. */
static void
audit_hands(struct ql_audit *audit, const struct ql_audit_group *found)
{
    const struct ql_group *group = found->group;
    size_t count = group->pending.count;
    for (uint32_t i = 0; i < group->consumer_count; i++)
        if (group->consumers[i] != NULL) count += group->consumers[i]->held.count;
    struct range *ranges = calloc(count + 1, sizeof(*ranges));
    if (ranges == NULL || audit->damaged) {
        free(ranges);
        return;
    }
    size_t at = 0;
    for (uint32_t i = 0; i < group->pending.count; i++)
        ranges[at++] = (struct range){ ql_span_at(&group->pending, i)->sequence,
                                       ql_span_at(&group->pending, i)->sequence +
                                           ql_span_at(&group->pending, i)->count };
    for (uint32_t i = 0; i < group->consumer_count; i++) {
        const struct ql_consumer *consumer = group->consumers[i];
        for (uint32_t j = 0; consumer != NULL && j < consumer->held.count; j++)
            ranges[at++] = (struct range){ ql_span_at(&consumer->held, j)->sequence,
                                           ql_span_at(&consumer->held, j)->sequence +
                                               ql_span_at(&consumer->held, j)->count };
    }
    qsort(ranges, count, sizeof(*ranges), compare_ranges);
    for (size_t i = 0; i < count; i++) {
        const char *mistake = ranges[i].to > group->cursor ? "lies above the group's cursor"
                              : i > 0 && ranges[i].from < ranges[i - 1].to ? "is in two hands"
                                                                           : NULL;
        if (mistake == NULL) continue;
        audit_tell(
            audit, "action", 0, "group \"%.*s\": sequence %" PRIu64 " %s", (int)group->name_size,
            group->name, ranges[i].from, mistake);
        break;
    }
    free(ranges);
}

static int
compare_ranges(const void *a, const void *b)
{
    uint64_t left = ((const struct range *)a)->from;
    uint64_t right = ((const struct range *)b)->from;
    return left < right ? -1 : left > right;
}

struct ql_audit_subject *
ql_audit_find(const struct ql_audit *audit, struct q_bytes name)
{
    for (uint32_t i = 0; i < audit->subject_count; i++) {
        struct ql_audit_subject *subject = audit->subjects[i];
        if (subject != NULL && q_bytes_equal(ql_audit_name(subject), name)) return subject;
    }
    return NULL;
}

static void
audit_tell(struct ql_audit *audit, const char *log, uint64_t position, const char *format, ...)
{
    char text[1024];
    audit->findings++;
    if (audit->on_finding == NULL) return;
    va_list args;
    va_start(args, format);
    (void)vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    audit->on_finding(audit->context, log, position, text);
}
