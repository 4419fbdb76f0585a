#include "log/index.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <qbase/assert.h>
#include <qlog/guard.h>

#include "format/block.h"
#include "format/record.h"
#include "log/index_scan.h"
#include "planted.h"

enum {
    /* A restart reads what no file has: the last stretch of the log. */
    CUT_BYTES_MAX = 32 * 1024 * 1024,
    CUTS_OF_SEGMENT = 4,
    /* A start makes subjects before it knows their names: most of those fit. */
    NAME_ROOM = 24,
};

static enum q_err index_rename(
    struct ql_index *index, struct ql_subject *subject, struct q_bytes name);
static enum q_err files_entry(
    struct ql_index *index,
    struct ql_subject *subject,
    uint64_t sequence,
    struct ql_entry *ret_entry);
static enum q_err file_entry(
    struct ql_index *index,
    uint32_t at,
    const struct ql_subject *subject,
    uint64_t sequence,
    struct ql_entry *ret_entry,
    bool *ret_first);
static enum q_err learn_subjects(void *context);
static void cut_begin(struct ql_index *index, const struct ql_segment *segment);
static bool cut_is_due(const struct ql_index *index);
static void cut_count(struct ql_index *index);
static enum q_err cut_add(
    struct ql_index *index, struct ql_index_header *header, uint64_t number_end);
static void subject_free(struct ql_subject *subject);
static enum q_err index_add(
    struct ql_index *index, uint32_t id, struct q_bytes name, struct ql_subject **ret_subject);
static bool index_name_equal(const void *key, uint32_t value, const void *context);

void
ql_index_init(struct ql_index *index)
{
    *index = (struct ql_index){ .subjects_max = UINT32_MAX, .entries_max = UINT32_MAX };
    index->head.base = UINT64_MAX;
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
    /* A subject of dead letters is the store's own, and groups need it to go on. */
    if (index->count >= index->subjects_max && name.data[0] != '%')
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
        if (record->subject_id >= QL_SUBJECT_IDS_MAX)
            return Q_FAIL(
                Q_E_CORRUPT, .what = q_text("subject id %u can't be", record->subject_id));
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
    if (id >= QL_SUBJECT_IDS_MAX)
        return Q_FAIL(Q_E_CORRUPT, .what = q_text("subject id %u can't be", id));
    (void)snprintf(name, sizeof(name), "%%unnamed-%u", id);
    Q_TRY(index_add(index, id, q_bytes_from_text(name), ret_subject));
    (*ret_subject)->unnamed = true;
    return Q_OK;
}

static enum q_err
index_rename(struct ql_index *index, struct ql_subject *subject, struct q_bytes name)
{
    char *place = subject->text;
    if (name.size >= subject->room) place = malloc(name.size + 1);
    if (place == NULL) return Q_FAIL(Q_E_NOMEM, .what = "subject");
    bool removed =
        q_map_remove(&index->by_name, ql_hash(subject->name, subject->name_size), subject->id);
    Q_ASSERT(removed);
    if (subject->name != subject->text) free(subject->name);
    subject->name = place;
    memcpy(subject->name, name.data, name.size);
    subject->name[name.size] = '\0';
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
    size_t room = q_max_u64(name.size, NAME_ROOM) + 1;
    struct ql_subject *subject = calloc(1, sizeof(*subject) + room);
    if (subject == NULL) return Q_FAIL(Q_E_NOMEM, .what = "subject");
    subject->room = (uint8_t)q_min_u64(room, UINT8_MAX);
    subject->name = subject->text;
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
    if (subject->name != subject->text) free(subject->name);
    free(subject);
}

/* --- Entries. */

enum q_err
ql_index_admit(const struct ql_index *index)
{
    const struct ql_entries *entries = &index->entries;
    const struct ql_key_rows *keys = &entries->keys;
    if (entries->end - entries->floor + index->promised >= index->entries_max ||
        keys->end - keys->floor + index->promised_keys >= index->entries_max)
        return Q_FAIL(
            Q_BUSY, .path = index->files.log->env->path,
            .what = q_text(
                "%llu batches wait for an index file that can't be written",
                (unsigned long long)(entries->end - entries->floor)),
            .hint = "check the disk and the limit of open files; INDEX_FAILED tells the cause");
    return Q_OK;
}

enum q_err
ql_index_promise(struct ql_index *index, const uint8_t *envelope)
{
    uint32_t keys = ql_entries_key_count(envelope);
    Q_TRY(ql_entries_reserve(&index->entries, index->promised + 1));
    Q_TRY(ql_key_rows_reserve(&index->entries.keys, index->promised_keys + keys));
    index->promised++;
    index->promised_keys += keys;
    return Q_OK;
}

void
ql_index_withdraw(struct ql_index *index, const uint8_t *envelope)
{
    uint32_t keys = ql_entries_key_count(envelope);
    Q_ASSERT(index->promised > 0 && index->promised_keys >= keys);
    index->promised--;
    index->promised_keys -= keys;
}

void
ql_index_add(
    struct ql_index *index,
    struct ql_subject *subject,
    const struct ql_entry *entry,
    const uint8_t *envelope,
    uint64_t wall_ms)
{
    Q_ASSERT(entry->first_sequence >= subject->next_sequence);
    ql_index_withdraw(index, envelope);
    subject->last = ql_entries_add(&index->entries, subject->last, subject->id, entry, wall_ms);
    if (!QL_PLANTED(index_key_forgotten)) ql_entries_add_keys(&index->entries, envelope);
    subject->next_sequence = ql_entry_end(entry);
}

enum q_err
ql_index_entry(
    struct ql_index *index,
    struct ql_subject *subject,
    uint64_t sequence,
    struct ql_entry *ret_entry)
{
    if (sequence >= subject->next_sequence) return Q_NOT_FOUND;
    const struct ql_entries *entries = &index->entries;
    uint64_t number = ql_entries_find(entries, subject->last, sequence);
    const struct ql_node *node = ql_entries_get(entries, number);
    /* Behind the last one in memory there is nothing; before the first one there are the files. */
    if (node == NULL && ql_entries_get(entries, subject->last) != NULL) return Q_NOT_FOUND;
    bool here = node != NULL &&
                (node->entry.first_sequence <= sequence || ql_entries_before(entries, number) != 0);
    if (!here && index->files.count > 0) {
        enum q_err err = files_entry(index, subject, sequence, ret_entry);
        if (err != Q_NOT_FOUND) return err;
        node = ql_entries_get(entries, number);
    }
    if (node == NULL) return Q_NOT_FOUND;
    *ret_entry = node->entry;
    return Q_OK;
}

/* The same in the files. */
static enum q_err
files_entry(
    struct ql_index *index,
    struct ql_subject *subject,
    uint64_t sequence,
    struct ql_entry *ret_entry)
{
    struct ql_index_files *files = &index->files;
    uint32_t hint = ql_index_files_from(files, subject->hint);
    if (hint == files->count) hint--;
    /* Back, as long as an earlier file may have it, too. */
    bool found = false;
    for (uint32_t at = hint + 1; at > 0; at--) {
        if (at > files->count) continue;
        struct ql_entry entry;
        bool first;
        enum q_err err = file_entry(index, at - 1, subject, sequence, &entry, &first);
        if (err < Q_OK) return err;
        if (err == Q_END) break;
        if (err == Q_NOT_FOUND) continue;
        subject->hint = files->files[at - 1]->view.header.base;
        *ret_entry = entry;
        found = true;
        if (entry.first_sequence <= sequence || !first) break;
    }
    /* Forward, to the first that has something. */
    for (uint32_t at = hint + 1; !found && at < files->count; at++) {
        bool first;
        enum q_err err = file_entry(index, at, subject, sequence, ret_entry, &first);
        if (err < Q_OK) return err;
        found = err == Q_OK;
        if (found) subject->hint = files->files[at]->view.header.base;
    }
    return found ? Q_OK : Q_NOT_FOUND;
}

struct file_look {
    struct ql_index_view *view;
    uint32_t subject_id;
    uint64_t sequence;
    struct ql_index_subject row;
    uint32_t number;
    struct ql_entry *entry;
};

static enum q_err
file_look(void *context)
{
    struct file_look *look = context;
    return ql_index_view_find(
        look->view, look->subject_id, look->sequence, &look->row, &look->number, look->entry);
}

/* `*ret_first`: it is the subject's first one there. As ql_index_view_find(), but for damage. */
static enum q_err
file_entry(
    struct ql_index *index,
    uint32_t at,
    const struct ql_subject *subject,
    uint64_t sequence,
    struct ql_entry *ret_entry,
    bool *ret_first)
{
    struct ql_index_files *files = &index->files;
    struct file_look look = {
        .subject_id = subject->id,
        .sequence = sequence,
        .entry = ret_entry,
    };
    enum q_err err;
    for (unsigned tries = 0;; tries++) {
        struct ql_index_file *file = files->files[at];
        err = ql_index_files_view(files, file);
        look.view = &file->view;
        if (err == Q_OK) err = qlog_guard(file_look, &look);
        if (tries > 0 || !ql_index_is_damaged(err)) break;
        uint64_t base = file->view.header.base;
        Q_TRY(ql_index_files_rebuild(files, file));
        /* Its segment is gone. */
        if (ql_index_files_of(files, base) == NULL) return Q_NOT_FOUND;
    }
    *ret_first = err == Q_OK && look.number == look.row.first;
    return err;
}

bool
ql_index_is_damaged(enum q_err err)
{
    return err == Q_E_CORRUPT || err == Q_E_IO;
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

enum q_err
ql_index_time(struct ql_index *index, uint64_t wall_ms, uint64_t *ret_position)
{
    struct ql_index_files *files = &index->files;
    for (uint32_t at = 0; at < files->count; at++) {
        struct ql_index_file *file = files->files[at];
        if (file->view.header.wall_ms < wall_ms) continue;
        enum q_err err = ql_index_files_view(files, file);
        if (err == Q_OK) err = ql_index_view_time(&file->view, wall_ms, ret_position);
        if (err == Q_NOT_FOUND) continue;
        if (!ql_index_is_damaged(err)) return err;
        /* Once more, now from its segment. */
        Q_TRY(ql_index_files_rebuild(files, file));
        at--;
    }
    for (uint64_t number = index->entries.floor; number < index->entries.end; number++) {
        const struct ql_node *node = ql_entries_get(&index->entries, number);
        *ret_position = node->entry.frame;
        if (node->wall_ms >= wall_ms) return Q_OK;
    }
    *ret_position = files->log->tail;
    return Q_OK;
}

void
ql_index_drop(struct ql_index *index, uint64_t first)
{
    ql_index_files_trim(&index->files, first);
    uint64_t number = index->entries.floor;
    while (number < index->entries.end &&
           ql_entries_get(&index->entries, number)->entry.frame < first)
        number++;
    ql_entries_drop(&index->entries, number);
}

/* --- Segments. */

void
ql_index_attach(
    struct ql_index *index, struct ql_log *log, const struct ql_log *actions, bool threaded)
{
    uint64_t share = log->segment_bytes / CUTS_OF_SEGMENT;
    index->cut_bytes = q_min_u64(share, CUT_BYTES_MAX);
    ql_index_files_init(&index->files, log, actions, threaded);
}

void
ql_index_detach(struct ql_index *index)
{
    ql_index_files_fini(&index->files);
}

void
ql_index_begin_segment(struct ql_index *index, const struct ql_index_header *header, uint64_t from)
{
    index->head = *header;
    index->cut_end = from;
}

struct learning {
    struct ql_index *index;
    struct ql_index_view *view;
};

enum q_err
ql_index_learn(struct ql_index *index, struct ql_index_file *file)
{
    Q_TRY(ql_index_files_view(&index->files, file));
    struct learning learning = { .index = index, .view = &file->view };
    return qlog_guard(learn_subjects, &learning);
}

static enum q_err
learn_subjects(void *context)
{
    const struct learning *learning = context;
    struct ql_index *index = learning->index;
    for (uint32_t i = 0; i < learning->view->header.subject_count; i++) {
        struct ql_index_subject row;
        Q_TRY(ql_index_view_subject(learning->view, i, &row));
        struct ql_subject *subject = ql_index_get(index, row.id);
        if (subject == NULL) Q_TRY(ql_index_need_unnamed(index, row.id, &subject));
        if (!QL_PLANTED(index_next_forgotten))
            subject->next_sequence = q_max_u64(subject->next_sequence, row.next_sequence);
        subject->hint = learning->view->header.base;
    }
    return Q_OK;
}

void
ql_index_cut(struct ql_index *index)
{
    const struct ql_log *log = index->files.log;
    if (log->active == NULL) return;
    if (index->head.base == UINT64_MAX) cut_begin(index, log->active);
    while (index->head.base != log->active->base) {
        /* The log went on to another segment. */
        const struct ql_segment *next = ql_segment_set_next(&log->segments, index->head.base);
        struct ql_index_header header = index->head;
        header.end = next->base;
        header.chain = next->chain;
        header.sealed = true;
        uint64_t number_end = index->entries.end;
        while (number_end > index->entries.floor &&
               ql_entries_get(&index->entries, number_end - 1)->entry.frame >= next->base)
            number_end--;
        if (cut_add(index, &header, number_end) != Q_OK) return;
        cut_begin(index, next);
    }
    if (log->roll != QL_ROLL_NONE || !cut_is_due(index)) return;
    struct ql_index_header header = index->head;
    header.end = log->tail;
    header.chain = log->chain;
    if (cut_add(index, &header, index->entries.end) != Q_OK) return;
    index->cut_end = log->tail;
    cut_count(index);
}

/* By bytes; or by what waits in memory, of which there may be much in few bytes. */
static bool
cut_is_due(const struct ql_index *index)
{
    uint64_t bytes = index->files.log->tail - index->cut_end;
    uint64_t most = index->entries_max / 4;
    bool are_many =
        index->entries.end - q_min_u64(index->cut_number, index->entries.end) >= most ||
        index->entries.keys.end - q_min_u64(index->cut_keys, index->entries.keys.end) >= most;
    return bytes >= index->cut_bytes || (bytes > 0 && are_many);
}

static void
cut_count(struct ql_index *index)
{
    index->cut_number = index->entries.end;
    index->cut_keys = index->entries.keys.end;
}

static void
cut_begin(struct ql_index *index, const struct ql_segment *segment)
{
    const struct ql_log *log = index->files.log;
    ql_index_header_of(log->env, log->name, segment, &index->head);
    index->cut_end = segment->base;
    cut_count(index);
}

static enum q_err
cut_add(struct ql_index *index, struct ql_index_header *header, uint64_t number_end)
{
    const struct ql_log *log = index->files.log;
    bool old = header->end <= index->recovered_end;
    header->generation = old ? index->recovered_generation : log->env->generation;
    header->wall_ms = log->wall_ms;
    return ql_index_files_cut(&index->files, header, number_end);
}

bool
ql_index_make(struct ql_index *index, uint64_t now_ns)
{
    bool mended = index->files.mend != UINT64_MAX;
    /* From the first turn on nobody may wait for a segment. */
    index->files.beside = index->files.worker.threaded;
    ql_index_files_step(&index->files, &index->entries, now_ns, true);
    return mended && index->files.mend == UINT64_MAX;
}
