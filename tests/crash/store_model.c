#include "store_model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <qbase/assert.h>
#include <qbatch/batch.h>

#include "log/index_scan.h"
#include "reader.h"

void
model_grow(void **array, unsigned count, size_t size)
{
    /* Room for a power of two, so that its end says when to grow. */
    if (count == 0 || (count & (count - 1)) == 0) {
        *array = realloc(*array, (count == 0 ? 1 : (size_t)count * 2) * size);
        Q_ASSERT(*array != NULL);
    }
    memset((char *)*array + count * size, 0, size);
}

struct store_history *
store_history_new(const struct work_kind *kind, const void *plan)
{
    struct store_history *history = calloc(1, sizeof(*history));
    Q_ASSERT(history != NULL);
    history->history.kind = kind;
    history->plan = plan;
    return history;
}

void
store_history_free(struct store_history *history)
{
    free(history->publishes);
    free(history->groups);
    free(history->hands);
    free(history->dones);
    free(history->trims);
    free(history->rests);
    free(history);
}

struct store_history *
store_history_cut(const struct store_history *whole, uint64_t at, bool kill)
{
    struct store_history *cut = store_history_new(whole->history.kind, whole->plan);
    cut->next_id = whole->next_id;
    cut->gaps = whole->gaps || !kill;
    for (unsigned i = 0; i < whole->publish_count; i++) {
        const struct model_publish *from = &whole->publishes[i];
        if (!promise_is_known(&from->promise, at)) continue;
        struct model_publish *to = model_add(cut->publishes, cut->publish_count);
        *to = *from;
        to->promise = promise_cut(&from->promise, at, kill);
        if (promise_holds(&to->promise)) continue;
        to->frame = MODEL_UNKNOWN;
        for (unsigned j = 0; j < to->batch_count; j++)
            to->batches[j].first = MODEL_UNKNOWN;
    }
    /* Others speak of groups by their number: those that are not known stay, as dropped. */
    for (unsigned i = 0; i < whole->group_count; i++) {
        const struct model_group *from = &whole->groups[i];
        struct model_group *to = model_add(cut->groups, cut->group_count);
        *to = *from;
        to->promise = promise_cut(&from->promise, at, kill);
        if (!promise_is_known(&from->promise, at)) to->promise.dropped = 0;
    }
    for (unsigned i = 0; i < whole->hand_count; i++) {
        const struct model_hand *from = &whole->hands[i];
        if (!promise_is_known(&from->promise, at)) continue;
        struct model_hand *to = model_add(cut->hands, cut->hand_count);
        *to = *from;
        to->promise = promise_cut(&from->promise, at, kill);
    }
    for (unsigned i = 0; i < whole->done_count; i++) {
        const struct model_done *from = &whole->dones[i];
        if (!promise_is_known(&from->promise, at)) continue;
        struct model_done *to = model_add(cut->dones, cut->done_count);
        *to = *from;
        to->promise = promise_cut(&from->promise, at, kill);
    }
    for (unsigned i = 0; i < whole->trim_count; i++)
        if (promise_is_known(&whole->trims[i].promise, at)) {
            struct model_trim *to = model_add(cut->trims, cut->trim_count);
            *to = whole->trims[i];
            to->promise = promise_new(0);
        }
    for (unsigned i = 0; i < whole->rest_count; i++) {
        if (whole->rests[i].moment != at || (!kill && !whole->rests[i].flushed)) continue;
        cut->hash_wanted = true;
        cut->hash = whole->rests[i].hash;
    }
    return cut;
}

/* Each promise of the history, with the mark that makes it durable. */
typedef void each_promise_fn(
    struct promise *promise, uint64_t bound, bool action, const uint64_t context[3]);

static void
each_promise(struct store_history *history, each_promise_fn *each, const uint64_t context[3])
{
    for (unsigned i = 0; i < history->publish_count; i++)
        each(&history->publishes[i].promise, history->publishes[i].bound, false, context);
    for (unsigned i = 0; i < history->group_count; i++)
        each(&history->groups[i].promise, history->groups[i].bound, true, context);
    for (unsigned i = 0; i < history->hand_count; i++)
        each(&history->hands[i].promise, history->hands[i].bound, true, context);
    for (unsigned i = 0; i < history->done_count; i++)
        each(&history->dones[i].promise, history->dones[i].bound, true, context);
}

static void
void_one(struct promise *promise, uint64_t bound, bool action, const uint64_t context[3])
{
    (void)bound;
    (void)action;
    promise_void(promise, context[0]);
}

void
store_history_void(struct store_history *history, uint64_t now)
{
    history->gaps = true;
    each_promise(history, void_one, (const uint64_t[3]){ now });
}

static void
durable_one(struct promise *promise, uint64_t bound, bool action, const uint64_t context[3])
{
    if (promise->answered != MEDIA_NEVER && promise->durable == MEDIA_NEVER &&
        promise->voided == MEDIA_NEVER && bound <= context[action ? 1 : 0])
        promise->durable = context[2];
}

void
store_history_durable(
    struct store_history *history, uint64_t messages, uint64_t actions, uint64_t now)
{
    each_promise(history, durable_one, (const uint64_t[3]){ messages, actions, now });
}

/* --- The model's words. */

const char *
model_subject_name(unsigned subject)
{
    static const char *const names[MODEL_SUBJECTS] = { "orders", "payments", "s", "mail.out" };
    return names[subject];
}

const char *
model_tag_name(int tag)
{
    static const char *const names[] = { "red", "blue" };
    return names[tag];
}

void
model_body(char out[32], uint32_t id, unsigned batch, uint32_t index)
{
    (void)snprintf(out, 32, "message %u-%u-%u", id, batch, index);
}

static int
subject_by_name(const char *name)
{
    for (int i = 0; i < MODEL_SUBJECTS; i++)
        if (strcmp(model_subject_name((unsigned)i), name) == 0) return i;
    return -1;
}

static bool
is_there(const struct promise *promise)
{
    return promise->dropped == MEDIA_NEVER;
}

const struct model_batch *
model_find(
    const struct store_history *history,
    unsigned subject,
    uint64_t sequence,
    const struct model_publish **ret_publish)
{
    for (unsigned i = 0; i < history->publish_count; i++) {
        const struct model_publish *publish = &history->publishes[i];
        for (unsigned j = 0; is_there(&publish->promise) && j < publish->batch_count; j++) {
            const struct model_batch *batch = &publish->batches[j];
            if (batch->subject != subject || batch->first == MODEL_UNKNOWN ||
                sequence < batch->first || sequence >= batch->first + batch->count)
                continue;
            *ret_publish = publish;
            return batch;
        }
    }
    return NULL;
}

int
model_find_group(const struct store_history *history, unsigned subject, const char *name)
{
    for (unsigned i = 0; i < history->group_count; i++) {
        const struct model_group *group = &history->groups[i];
        if (is_there(&group->promise) && group->subject == subject &&
            strcmp(group->name, name) == 0)
            return (int)i;
    }
    return -1;
}

bool
model_hand_holds(
    const struct store_history *history,
    unsigned group,
    const char *consumer,
    uint64_t pull_sequence)
{
    for (unsigned i = 0; i < history->hand_count; i++) {
        const struct model_hand *hand = &history->hands[i];
        if (hand->group == group && strcmp(hand->consumer, consumer) == 0 &&
            pull_sequence >= hand->pull_sequence &&
            pull_sequence < hand->pull_sequence + hand->count)
            return promise_holds(&hand->promise);
    }
    return false;
}

/* --- Messages. */

struct verifying {
    struct store_history *history;
    struct verdict *verdict;
    uint64_t now;
    bool recovered;
    const char *names[64]; /* by subject id */
    bool letters[64];      /* … whether it holds dead letters: the store's own, before a trim */
    unsigned next;         /* publish */
    unsigned batch;        /* within it */
    struct model_publish *publish;
    uint64_t sequences[MODEL_SUBJECTS];
    bool begun;
};

static bool
is_trimmed(const struct store_history *history, const struct model_publish *publish)
{
    for (unsigned i = 0; i < history->trim_count; i++)
        /* Where an unanswered one lies is not known, but a trim can't have been about it alone. */
        if (publish->frame == MODEL_UNKNOWN || publish->frame < history->trims[i].messages_before)
            return true;
    return false;
}

static bool
is_of_letters(const char *subject)
{
    return strncmp(subject, QL_DEAD_PREFIX, strlen(QL_DEAD_PREFIX)) == 0;
}

static struct model_publish *
verify_next_publish(struct verifying *verifying, uint64_t id)
{
    struct store_history *history = verifying->history;
    while (verifying->next < history->publish_count) {
        struct model_publish *publish = &history->publishes[verifying->next++];
        if (!is_there(&publish->promise)) continue;
        if (publish->id == id) return publish;
        /* Only the head may be gone. */
        if (verifying->begun || !is_trimmed(history, publish)) return publish;
    }
    return NULL;
}

static void
verify_batch(struct verifying *verifying, const struct qbatch *found, uint64_t frame)
{
    struct verdict *verdict = verifying->verdict;
    if (found->subject_id < 64 && verifying->letters[found->subject_id]) return;
    if (verifying->publish == NULL || verifying->batch == verifying->publish->batch_count) {
        verifying->publish = verify_next_publish(verifying, found->request_sequence);
        verifying->batch = 0;
    }
    struct model_publish *publish = verifying->publish;
    if (publish == NULL || publish->id != found->request_sequence ||
        verifying->batch != found->request_index)
    {
        verdict_add(
            verdict, VERDICT_PHANTOM, "batch %u of publish %llu at %llu, where %u of %u is due",
            found->request_index, (unsigned long long)found->request_sequence,
            (unsigned long long)frame, verifying->batch, publish == NULL ? 0 : publish->id);
        verifying->publish = NULL;
        return;
    }
    verifying->begun = true;
    struct model_batch *batch = &publish->batches[verifying->batch++];
    const char *name = found->subject_id < 64 ? verifying->names[found->subject_id] : NULL;
    int subject = name == NULL ? -1 : subject_by_name(name);
    if (subject != (int)batch->subject || found->payload_hash != batch->payload_hash ||
        found->message_count != batch->count)
        verdict_add(
            verdict, VERDICT_PHANTOM, "publish %u at %llu is not what was published", publish->id,
            (unsigned long long)frame);
    uint64_t first = found->first_sequence;
    uint64_t due = verifying->sequences[batch->subject];
    if ((batch->first != MODEL_UNKNOWN && first != batch->first) || first < due ||
        (first > due && !verifying->history->gaps))
        verdict_add(
            verdict, VERDICT_PHANTOM,
            "publish %u has sequence %llu of %s; %llu was promised, %llu is due", publish->id,
            (unsigned long long)first, model_subject_name(batch->subject),
            (unsigned long long)batch->first, (unsigned long long)due);
    batch->first = first;
    publish->frame = frame;
    verifying->sequences[batch->subject] = first + batch->count;
    if (verifying->recovered) promise_settle(&publish->promise, verifying->now, true);
}

static void
verify_record(void *context, const struct ql_frame *frame, const struct ql_record *record)
{
    struct verifying *verifying = context;
    struct ql_subject_record subject;
    struct qbatch batch;
    if (record->kind == QL_RECORD_SUBJECT) {
        if (ql_subject_record_decode(record->bytes, &subject) != Q_OK) return;
        char name[QLOG_SUBJECT_MAX + 1] = { 0 };
        memcpy(name, subject.name.data, subject.name.size);
        int number = subject_by_name(name);
        if (number >= 0 && subject.subject_id < 64)
            verifying->names[subject.subject_id] = model_subject_name((unsigned)number);
        if (subject.subject_id < 64) verifying->letters[subject.subject_id] = is_of_letters(name);
    } else if (
        record->kind == QL_RECORD_BATCH && qbatch_open(record->bytes, &batch) == Q_OK &&
        qbatch_check_payload(&batch, record->payload) == Q_OK)
    {
        verify_batch(verifying, &batch, frame->position);
    } else {
        verdict_add(
            verifying->verdict, VERDICT_PHANTOM, "a record of kind %u that is none at %llu",
            record->kind, (unsigned long long)frame->position);
    }
}

static void
verify_messages(
    struct verifying *verifying,
    const struct qlog_store *store,
    struct qlog_io *io,
    const char *directory)
{
    struct verdict *verdict = verifying->verdict;
    struct reader_result result = { 0 };
    enum q_err err = reader_run(io, directory, QL_LOG_MESSAGE, verify_record, verifying, &result);
    if (err != Q_OK)
        verdict_add(verdict, VERDICT_FAILED, "read messages: %s", q_fault_last()->what);
    if (err == Q_OK && (result.rot_bytes > 0 || result.end != store->messages->written))
        verdict_add(
            verdict, VERDICT_FAILED, "a reader finds rot %llu and ends at %llu, the log at %llu",
            (unsigned long long)result.rot_bytes, (unsigned long long)result.end,
            (unsigned long long)store->messages->written);
    if (verifying->publish != NULL && verifying->batch < verifying->publish->batch_count)
        verdict_add(verdict, VERDICT_FAILED, "publish %u is there in part", verifying->publish->id);
    struct store_history *history = verifying->history;
    for (unsigned i = verifying->next; i < history->publish_count; i++) {
        struct model_publish *publish = &history->publishes[i];
        if (!is_there(&publish->promise)) continue;
        bool trimmed = !verifying->begun && is_trimmed(history, publish);
        if (promise_holds(&publish->promise) && !trimmed)
            verdict_add(
                verdict, VERDICT_LOST, "publish %u was acknowledged and is not there", publish->id);
        if (verifying->recovered) promise_settle(&publish->promise, verifying->now, false);
    }
}

/* The index says the same as the log. */
static void
verify_index(struct verifying *verifying, struct qlog_store *store)
{
    for (uint32_t i = 0; i < store->index.count; i++) {
        const struct ql_subject *subject = store->index.subjects[i];
        if (subject == NULL) continue;
        int number = subject_by_name(subject->name);
        if (is_of_letters(subject->name)) continue;
        if (number < 0) {
            verdict_add(verifying->verdict, VERDICT_PHANTOM, "subject \"%s\"", subject->name);
            continue;
        }
        uint64_t due = verifying->sequences[number];
        if (subject->next_sequence < due ||
            (subject->next_sequence > due && !verifying->history->gaps))
            verdict_add(
                verifying->verdict, VERDICT_FAILED, "%s goes on at %llu, the log ends at %llu",
                subject->name, (unsigned long long)subject->next_sequence, (unsigned long long)due);
        verifying->sequences[number] = subject->next_sequence;
    }
}

/* Each index file says what its segment says, keys and all. */
static void
verify_index_files(
    struct verifying *verifying,
    struct qlog_store *store,
    struct qlog_io *io,
    const char *directory)
{
    struct ql_home *home;
    if (ql_home_open_to_read(directory, io, &home) != Q_OK) {
        verdict_add(verifying->verdict, VERDICT_FAILED, "%s", q_fault_last()->what);
        return;
    }
    struct ql_log *log = &home->logs[0];
    struct ql_index_files *files = &store->index.files;
    for (uint32_t i = 0; i < files->count; i++) {
        struct ql_index_file *file = files->files[i];
        const struct ql_index_header *header = &file->view.header;
        const struct ql_segment *segment = ql_segment_set_find(&log->segments, header->base);
        bool there = segment != NULL && segment->base == header->base &&
                     header->rot_from == header->rot_to && file->view.file != NULL;
        struct ql_index_build build;
        if (!there) continue;
        enum q_err err =
            ql_index_rebuild(&home->env, log->name, &log->segments, segment, header->end, &build);
        if (err != Q_OK) {
            verdict_add(verifying->verdict, VERDICT_FAILED, "index: %s", q_fault_last()->what);
            continue;
        }
        build.header.created_ms = header->created_ms;
        ql_index_header_encode(&build.header, build.file);
        if (build.file_size != file->view.layout.file_size ||
            memcmp(build.file, file->view.file, build.file_size) != 0)
            verdict_add(
                verifying->verdict, VERDICT_FAILED, "index-%06u does not say what its segment says",
                file->number);
        free(build.file);
    }
    (void)ql_home_close(home);
}

/* --- Consumption. */

enum place {
    PLACE_GONE, /* below the cursor, and nobody has it */
    PLACE_HELD,
    PLACE_PENDING,
    PLACE_WAITING
};

static struct ql_group *
store_group(struct qlog_store *store, const struct model_group *group)
{
    for (uint32_t i = 0; i < store->group_count; i++) {
        struct ql_group *found = store->groups[i];
        if (found != NULL && strcmp(found->name, group->name) == 0 &&
            strcmp(found->subject->name, model_subject_name(group->subject)) == 0)
            return found;
    }
    return NULL;
}

static void
places_set(
    struct verifying *verifying,
    enum place *places,
    uint64_t end,
    uint64_t sequence,
    uint32_t count,
    enum place place)
{
    for (uint64_t i = sequence; i < sequence + count; i++) {
        if (i >= end || places[i] != PLACE_GONE) {
            verdict_add(
                verifying->verdict, VERDICT_PHANTOM,
                "message %llu is in two places or beyond the end %llu of its group",
                (unsigned long long)i, (unsigned long long)end);
            return;
        }
        places[i] = place;
    }
}

static enum place *
places_of(struct verifying *verifying, const struct ql_group *group)
{
    uint64_t end = group->subject->next_sequence;
    enum place *places = calloc(end + 1, sizeof(*places));
    Q_ASSERT(places != NULL);
    if (group->cursor > end)
        verdict_add(verifying->verdict, VERDICT_FAILED, "the cursor is beyond the end");
    for (uint64_t i = group->cursor; i < end; i++)
        places[i] = PLACE_WAITING;
    for (uint32_t i = 0; i < group->pending.count; i++)
        places_set(
            verifying, places, end, ql_span_at(&group->pending, i)->sequence,
            ql_span_at(&group->pending, i)->count, PLACE_PENDING);
    for (uint32_t i = 0; i < group->consumer_count; i++) {
        const struct ql_consumer *consumer = group->consumers[i];
        for (uint32_t j = 0; consumer != NULL && j < consumer->held.count; j++)
            places_set(
                verifying, places, end, ql_span_at(&consumer->held, j)->sequence,
                ql_span_at(&consumer->held, j)->count, PLACE_HELD);
    }
    return places;
}

/* Whether somebody asked to be done with a message, and whether that was promised. */
static void
done_bounds(
    const struct store_history *history,
    unsigned group,
    uint64_t sequence,
    bool *ret_asked,
    bool *ret_promised)
{
    *ret_asked = false;
    *ret_promised = false;
    for (unsigned i = 0; i < history->done_count; i++) {
        const struct model_done *done = &history->dones[i];
        if (done->group != group || done->sequence != sequence || !is_there(&done->promise))
            continue;
        *ret_asked = true;
        if (promise_holds(&done->promise)) *ret_promised = true;
    }
}

static void
verify_group(struct verifying *verifying, unsigned number, const struct ql_group *group)
{
    struct store_history *history = verifying->history;
    struct model_group *model = &history->groups[number];
    if (model->start == MODEL_UNKNOWN) model->start = group->cursor;
    enum place *places = places_of(verifying, group);
    for (uint64_t i = model->start; i < group->subject->next_sequence; i++) {
        const struct model_publish *publish;
        const struct model_batch *batch = model_find(history, model->subject, i, &publish);
        /* Trimmed, or taken by power loss behind a statement of its number. */
        if (batch == NULL || is_trimmed(history, publish)) continue;
        bool wanted = model->tag == MODEL_NO_TAG || model->tag == batch->tag;
        bool asked;
        bool promised;
        done_bounds(history, number, i, &asked, &promised);
        if (places[i] == PLACE_GONE && wanted && !asked)
            verdict_add(
                verifying->verdict, VERDICT_LOST,
                "group %s never gets message %llu of %s: nobody was done with it", model->name,
                (unsigned long long)i, model_subject_name(model->subject));
        if (promised && places[i] != PLACE_GONE)
            verdict_add(
                verifying->verdict, VERDICT_FAILED,
                "group %s gets message %llu of %s again, its acknowledgement was safe", model->name,
                (unsigned long long)i, model_subject_name(model->subject));
        if (!wanted && (places[i] == PLACE_HELD || places[i] == PLACE_PENDING))
            verdict_add(
                verifying->verdict, VERDICT_PHANTOM, "group %s is given what its filter skips",
                model->name);
    }
    free(places);
}

/* A pull sequence means one message, in one session, for ever. */
static void
verify_hand(
    struct verifying *verifying,
    const struct qlog_store *store,
    const struct model_hand *hand,
    const struct ql_group *group)
{
    const struct ql_consumer *consumer =
        ql_group_consumer_named(group, q_bytes_from_text(hand->consumer));
    if (consumer == NULL || consumer->session != hand->session) return;
    if (ql_consumer_next(store, consumer) < hand->pull_sequence + hand->count)
        verdict_add(
            verifying->verdict, VERDICT_FAILED, "pull sequence %llu of %s may be given twice",
            (unsigned long long)(hand->pull_sequence + hand->count - 1), hand->consumer);
    for (uint32_t i = 0; i < consumer->held.count; i++) {
        const struct ql_range_item *held = ql_span_at(&consumer->held, i);
        uint64_t from = q_max_u64(held->pull_sequence, hand->pull_sequence);
        uint64_t to =
            q_min_u64(held->pull_sequence + held->count, hand->pull_sequence + hand->count);
        if (from < to &&
            held->sequence - held->pull_sequence != hand->sequence - hand->pull_sequence)
            verdict_add(
                verifying->verdict, VERDICT_PHANTOM,
                "pull sequence %llu of %s stands for another message", (unsigned long long)from,
                hand->consumer);
    }
}

/* The message may be another's now; else its pull sequence must not come back for another one. */
static void
hand_settle(struct verifying *verifying, struct model_hand *hand, uint64_t end)
{
    if (hand->sequence + hand->count > end)
        promise_settle(&hand->promise, verifying->now, false);
    else if (promise_holds(&hand->promise))
        promise_settle(&hand->promise, verifying->now, true);
}

/* After a recovery: what it did not find is over. */
static void
settle_consumption(struct verifying *verifying, unsigned number, const struct ql_group *group)
{
    struct store_history *history = verifying->history;
    bool found = group != NULL;
    uint64_t end = found ? group->subject->next_sequence : 0;
    promise_settle(&history->groups[number].promise, verifying->now, found);
    for (unsigned i = 0; i < history->hand_count; i++) {
        struct model_hand *hand = &history->hands[i];
        if (hand->group == number && is_there(&hand->promise)) hand_settle(verifying, hand, end);
    }
    enum place *places = found ? places_of(verifying, group) : NULL;
    for (unsigned i = 0; i < history->done_count; i++) {
        struct model_done *done = &history->dones[i];
        if (done->group != number || !is_there(&done->promise)) continue;
        bool gone = done->sequence < end && places[done->sequence] == PLACE_GONE;
        promise_settle(&done->promise, verifying->now, gone);
    }
    free(places);
}

static void
verify_consumption(struct verifying *verifying, struct qlog_store *store)
{
    struct store_history *history = verifying->history;
    for (unsigned i = 0; i < history->group_count; i++) {
        struct model_group *model = &history->groups[i];
        if (!is_there(&model->promise)) continue;
        const struct ql_group *group = store_group(store, model);
        if (group == NULL && promise_holds(&model->promise))
            verdict_add(verifying->verdict, VERDICT_LOST, "group %s is not there", model->name);
        if (group != NULL) verify_group(verifying, i, group);
        for (unsigned j = 0; group != NULL && j < history->hand_count; j++)
            if (history->hands[j].group == i && is_there(&history->hands[j].promise))
                verify_hand(verifying, store, &history->hands[j], group);
        if (verifying->recovered) settle_consumption(verifying, i, group);
    }
    for (uint32_t i = 0; i < store->group_count; i++) {
        const struct ql_group *group = store->groups[i];
        if (group == NULL) continue;
        int subject = subject_by_name(group->subject->name);
        if (subject < 0 || model_find_group(history, (unsigned)subject, group->name) < 0)
            verdict_add(verifying->verdict, VERDICT_PHANTOM, "group \"%s\"", group->name);
    }
}

/* --- The state as one number. */

static uint64_t
hash_add(uint64_t hash, uint64_t number)
{
    return (hash ^ number) * UINT64_C(0x9e3779b97f4a7c15) + (hash >> 29);
}

/* Without what a recovery raises on purpose: where pull sequences go on. */
static uint64_t
state_hash(struct qlog_store *store)
{
    uint64_t hash = 1;
    for (uint32_t i = 0; i < store->index.count; i++) {
        struct ql_subject *subject = store->index.subjects[i];
        if (subject == NULL) continue;
        hash = hash_add(hash, ql_hash(subject->name, subject->name_size));
        hash = hash_add(hash, subject->id);
        hash = hash_add(hash, subject->next_sequence);
        struct ql_entry entry;
        for (uint64_t next = 0; ql_index_entry(&store->index, subject, next, &entry) == Q_OK;
             next = ql_entry_end(&entry))
        {
            hash = hash_add(hash, entry.frame + entry.envelope_at);
            hash = hash_add(hash, entry.first_sequence);
        }
    }
    for (uint32_t i = 0; i < store->group_count; i++) {
        const struct ql_group *group = store->groups[i];
        if (group == NULL) continue;
        hash = hash_add(hash, ql_hash(group->name, group->name_size));
        hash = hash_add(hash, (uint64_t)group->id << 32 | group->subject->id);
        hash = hash_add(hash, group->cursor);
        for (uint32_t j = 0; j < group->pending.count; j++) {
            hash = hash_add(hash, ql_span_at(&group->pending, j)->sequence);
            hash = hash_add(hash, ql_span_at(&group->pending, j)->pull_sequence);
            hash = hash_add(
                hash, (uint64_t)ql_span_at(&group->pending, j)->count << 32 |
                          ql_uses_attempt(ql_span_at(&group->pending, j)->uses));
        }
        for (uint32_t j = 0; j < group->consumer_count; j++) {
            const struct ql_consumer *consumer = group->consumers[j];
            if (consumer == NULL) continue;
            hash = hash_add(hash, ql_hash(consumer->name, consumer->name_size));
            hash = hash_add(hash, consumer->session);
            for (uint32_t k = 0; k < consumer->held.count; k++) {
                hash = hash_add(hash, ql_span_at(&consumer->held, k)->sequence);
                hash = hash_add(hash, ql_span_at(&consumer->held, k)->pull_sequence);
                hash = hash_add(
                    hash, (uint64_t)ql_span_at(&consumer->held, k)->count << 32 |
                              ql_uses_attempt(ql_span_at(&consumer->held, k)->uses));
            }
        }
    }
    return hash;
}

void
store_history_rest(struct store_history *history, struct qlog_store *store, uint64_t now)
{
    struct model_rest *rest = model_add(history->rests, history->rest_count);
    *rest = (struct model_rest){
        .moment = now,
        .hash = state_hash(store),
        .flushed = store->messages->durable == store->messages->tail &&
                   store->actions->durable == store->actions->tail,
    };
}

void
store_verify(
    struct store_history *history,
    struct qlog_store *store,
    struct qlog_io *io,
    const char *directory,
    bool recovered,
    uint64_t now,
    struct verdict *verdict)
{
    struct verifying verifying = {
        .history = history,
        .verdict = verdict,
        .now = now,
        .recovered = recovered,
    };
    verify_messages(&verifying, store, io, directory);
    verify_index(&verifying, store);
    verify_index_files(&verifying, store, io, directory);
    verify_consumption(&verifying, store);
    if (recovered && history->hash_wanted && history->hash != state_hash(store))
        verdict_add(
            verdict, VERDICT_FAILED, "nothing was under way, and the state is not what it was");
    if (recovered) history->hash_wanted = false;
}
