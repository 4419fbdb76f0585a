#include "log/index.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <qbase/assert.h>

#include "format/block.h"
#include "format/record.h"

static enum q_err index_rename(
    struct ql_index *index, struct ql_subject *subject, struct q_bytes name);
static void subject_free(struct ql_subject *subject);
static enum q_err index_add(
    struct ql_index *index, uint32_t id, struct q_bytes name, struct ql_subject **ret_subject);
static bool index_name_equal(const void *key, uint32_t value, const void *context);

void
ql_index_init(struct ql_index *index, uint32_t subjects_max)
{
    *index = (struct ql_index){ .subjects_max = subjects_max };
    ql_entries_init(&index->entries);
}

void
ql_index_fini(struct ql_index *index)
{
    for (uint32_t i = 0; i < index->count; i++) {
        if (index->subjects[i] == NULL) continue;
        Q_ASSERT(q_list_is_empty(&index->subjects[i]->parked_groups));
        subject_free(index->subjects[i]);
    }
    ql_entries_fini(&index->entries);
    free(index->subjects);
    q_map_fini(&index->by_name);
}

enum q_err
ql_index_find(const struct ql_index *index, struct q_bytes name, struct ql_subject **ret_subject)
{
    uint32_t id;
    if (!q_map_get(
            &index->by_name, ql_hash(name.data, name.size), index_name_equal, &name, index, &id))
        return Q_NOT_FOUND;
    *ret_subject = index->subjects[id];
    return Q_OK;
}

static bool
index_name_equal(const void *key, uint32_t value, const void *context)
{
    const struct ql_index *index = context;
    const struct ql_subject *subject = index->subjects[value];
    return q_bytes_equal(
        *(const struct q_bytes *)key, q_bytes_from(subject->name, subject->name_size));
}

struct ql_subject *
ql_index_get(const struct ql_index *index, uint32_t id)
{
    return id < index->count ? index->subjects[id] : NULL;
}

enum q_err
ql_index_need(
    struct ql_index *index, struct q_bytes name, struct ql_subject **ret_subject, bool *ret_created)
{
    *ret_created = false;
    if (ql_index_find(index, name, ret_subject) == Q_OK) return Q_OK;
    if (name.size == 0 || name.size > QLOG_SUBJECT_MAX)
        return Q_FAIL(
            Q_INVALID, .what = q_text(
                           "a subject's name has 1 to %u bytes, this one %zu",
                           (unsigned)QLOG_SUBJECT_MAX, name.size));
    if (index->count >= index->subjects_max)
        return Q_FAIL(
            Q_TOO_BIG, .what = q_text("the store holds %u subjects already", index->subjects_max),
            .hint = "raise the limit of subjects, or delete some");
    Q_TRY(index_add(index, index->count, name, ret_subject));
    *ret_created = true;
    return Q_OK;
}

enum q_err
ql_index_apply_subject(struct ql_index *index, const struct ql_subject_record *record)
{
    struct ql_subject *subject = ql_index_get(index, record->subject_id);
    struct ql_subject *named;
    bool known = ql_index_find(index, record->name, &named) == Q_OK;
    if (subject == NULL && !known) {
        if (record->subject_id >= index->subjects_max)
            return Q_FAIL(
                Q_E_CORRUPT,
                .what = q_text("subject id %u is above the limit", record->subject_id));
        Q_TRY(index_add(index, record->subject_id, record->name, &subject));
    } else if (subject != NULL && subject->unnamed && !known) {
        Q_TRY(index_rename(index, subject, record->name));
    } else if (subject == NULL || !known || named != subject) {
        return Q_FAIL(
            Q_E_CORRUPT, .what = q_text(
                             "subject id %u stands for \"%s\" and for \"%.*s\"", record->subject_id,
                             subject == NULL ? "" : subject->name, (int)record->name.size,
                             (const char *)record->name.data));
    }
    subject->mode = (enum qlog_mode)record->mode;
    subject->next_sequence = q_max_u64(subject->next_sequence, record->next_sequence);
    return Q_OK;
}

enum q_err
ql_index_need_unnamed(struct ql_index *index, uint32_t id, struct ql_subject **ret_subject)
{
    char name[32];
    if (id >= index->subjects_max)
        return Q_FAIL(Q_E_CORRUPT, .what = q_text("subject id %u is above the limit", id));
    (void)snprintf(name, sizeof(name), "%%unnamed-%u", id);
    Q_TRY(index_add(index, id, q_bytes_from_text(name), ret_subject));
    (*ret_subject)->unnamed = true;
    return Q_OK;
}

static enum q_err
index_rename(struct ql_index *index, struct ql_subject *subject, struct q_bytes name)
{
    char *copy = calloc(1, name.size + 1);
    if (copy == NULL) return Q_FAIL(Q_E_NOMEM, .what = "subject");
    memcpy(copy, name.data, name.size);
    bool removed =
        q_map_remove(&index->by_name, ql_hash(subject->name, subject->name_size), subject->id);
    Q_ASSERT(removed);
    free(subject->name);
    subject->name = copy;
    subject->name_size = (uint8_t)name.size;
    subject->unnamed = false;
    /* The place that was just given back is there. */
    enum q_err err =
        q_map_put(&index->by_name, ql_hash(subject->name, subject->name_size), subject->id);
    Q_ASSERT(err == Q_OK);
    return Q_OK;
}

static enum q_err
index_add(struct ql_index *index, uint32_t id, struct q_bytes name, struct ql_subject **ret_subject)
{
    if (id >= index->capacity) {
        uint32_t capacity = index->capacity == 0 ? 16 : index->capacity;
        while (capacity <= id)
            capacity *= 2;
        struct ql_subject **subjects =
            realloc(index->subjects, capacity * sizeof(struct ql_subject *));
        if (subjects == NULL) return Q_FAIL(Q_E_NOMEM, .what = "table of subjects");
        index->subjects = subjects;
        index->capacity = capacity;
    }
    struct ql_subject *subject = calloc(1, sizeof(*subject));
    if (subject == NULL) return Q_FAIL(Q_E_NOMEM, .what = "subject");
    subject->name = calloc(1, name.size + 1);
    if (subject->name == NULL) {
        subject_free(subject);
        return Q_FAIL(Q_E_NOMEM, .what = "subject");
    }
    subject->id = id;
    subject->name_size = (uint8_t)name.size;
    memcpy(subject->name, name.data, name.size);
    q_list_init(&subject->parked_groups);
    q_list_init(&subject->stirred_link);
    q_list_init(&subject->groups);
    enum q_err err = q_map_put(&index->by_name, ql_hash(name.data, name.size), id);
    if (err != Q_OK) {
        subject_free(subject);
        return err;
    }
    while (index->count <= id)
        index->subjects[index->count++] = NULL;
    index->subjects[id] = subject;
    *ret_subject = subject;
    return Q_OK;
}

static void
subject_free(struct ql_subject *subject)
{
    free(subject->name);
    free(subject);
}

/* --- Entries. */

enum q_err
ql_index_promise(struct ql_index *index)
{
    Q_TRY(ql_entries_reserve(&index->entries, index->promised + 1));
    index->promised++;
    return Q_OK;
}

void
ql_index_withdraw(struct ql_index *index)
{
    Q_ASSERT(index->promised > 0);
    index->promised--;
}

void
ql_index_add(
    struct ql_index *index,
    struct ql_subject *subject,
    const struct ql_entry *entry,
    uint64_t wall_ms)
{
    Q_ASSERT(entry->first_sequence >= subject->next_sequence);
    ql_index_withdraw(index);
    subject->last = ql_entries_add(&index->entries, subject->last, subject->id, entry, wall_ms);
    subject->next_sequence = ql_entry_end(entry);
}

enum q_err
ql_index_entry(
    const struct ql_index *index,
    const struct ql_subject *subject,
    uint64_t sequence,
    struct ql_entry *ret_entry)
{
    uint64_t number = ql_entries_find(&index->entries, subject->last, sequence);
    if (number == 0) return Q_NOT_FOUND;
    *ret_entry = ql_entries_get(&index->entries, number)->entry;
    return Q_OK;
}

uint64_t
ql_index_visible_end(const struct ql_index *index, const struct ql_subject *subject, uint64_t mark)
{
    /* Only the frames in flight are above the mark: a few entries at the end. */
    uint64_t end = subject->next_sequence;
    for (uint64_t number = subject->last;; number = ql_entries_before(&index->entries, number)) {
        const struct ql_node *node = ql_entries_get(&index->entries, number);
        if (node == NULL) return end;
        const struct ql_entry *entry = &node->entry;
        if (entry->frame + entry->frame_size <= mark) return ql_entry_end(entry);
        end = entry->first_sequence;
    }
}

void
ql_index_drop(struct ql_index *index, uint64_t first)
{
    uint64_t number = index->entries.floor;
    while (number < index->entries.end &&
           ql_entries_get(&index->entries, number)->entry.frame < first)
        number++;
    ql_entries_drop(&index->entries, number);
}
