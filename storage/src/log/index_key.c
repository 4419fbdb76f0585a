/*
 * log/index_key.c: the batches of a subject that have a message with a key.
 */
#include <qbase/assert.h>
#include <qlog/guard.h>

#include "log/index.h"
#include "planted.h"

enum {
    /* In one call: each file may be a few reads of what nobody has looked at lately. */
    FILES_MAX = 8,
    ENTRIES_MAX = 4096,
};

struct key_look {
    struct ql_index_view *view;
    uint32_t subject_id;
    uint64_t hash;
    uint64_t sequence;
    uint64_t behind; /* behind the last sequence that the file knows of the subject */
    struct ql_entry *entry;
};

static enum q_err look_in_file(
    struct ql_index *index,
    uint32_t at,
    const struct ql_subject *subject,
    uint64_t hash,
    uint64_t *sequence,
    struct ql_entry *ret_entry);
static enum q_err file_look(void *context);
static enum q_err find_row(
    struct ql_index_view *view, uint64_t hash, uint32_t entry, struct ql_index_key *ret_key);
static enum q_err look_in_memory(
    const struct ql_index *index,
    const struct ql_subject *subject,
    uint64_t hash,
    uint64_t *sequence,
    struct ql_entry *ret_entry);

enum q_err
ql_index_key(
    struct ql_index *index,
    struct ql_subject *subject,
    uint64_t hash,
    uint64_t *sequence,
    struct ql_entry *ret_entry)
{
    const struct ql_index_files *files = &index->files;
    struct ql_entry entry;
    enum q_err err = ql_index_entry(index, subject, *sequence, &entry);
    if (err == Q_NOT_FOUND) *sequence = subject->next_sequence;
    if (err != Q_OK) return err;
    /* From the file that has the first one on; what no file has is in memory, and lies behind. */
    uint32_t at = ql_index_files_from(files, entry.frame);
    if (at == files->count || files->files[at]->view.header.base > entry.frame) at -= at > 0;
    for (uint32_t looks = 0; looks < FILES_MAX && at < files->count; looks++, at++) {
        err = look_in_file(index, at, subject, hash, sequence, ret_entry);
        if (err != Q_NOT_FOUND) return err;
    }
    return at < files->count ? Q_NOT_FOUND
                             : look_in_memory(index, subject, hash, sequence, ret_entry);
}

static enum q_err
look_in_file(
    struct ql_index *index,
    uint32_t at,
    const struct ql_subject *subject,
    uint64_t hash,
    uint64_t *sequence,
    struct ql_entry *ret_entry)
{
    struct ql_index_files *files = &index->files;
    struct key_look look = {
        .subject_id = subject->id,
        .hash = hash,
        .sequence = *sequence,
        .behind = *sequence,
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
    if (err == Q_NOT_FOUND) *sequence = q_max_u64(*sequence, look.behind);
    return err;
}

static enum q_err
file_look(void *context)
{
    struct key_look *look = context;
    struct ql_index_view *view = look->view;
    struct ql_index_subject row;
    uint32_t first;
    enum q_err err =
        ql_index_view_find(view, look->subject_id, look->sequence, &row, &first, look->entry);
    if (err == Q_END) return Q_NOT_FOUND;
    if (err != Q_OK) return err;
    struct ql_index_key key;
    look->behind = row.next_sequence;
    Q_TRY(find_row(view, look->hash, first, &key));
    if (key.hash != look->hash || key.entry >= row.first + row.count) return Q_NOT_FOUND;
    return ql_index_view_entry(view, key.entry, look->entry);
}

/* The first row at or behind (hash, entry); rows are sorted by both. Without one, `*ret_key` is none. */
static enum q_err
find_row(struct ql_index_view *view, uint64_t hash, uint32_t entry, struct ql_index_key *ret_key)
{
    uint32_t low = 0;
    uint32_t high = view->header.key_count;
    *ret_key = (struct ql_index_key){ .hash = ~hash };
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        struct ql_index_key key;
        Q_TRY(ql_index_view_key(view, middle, &key));
        bool before = key.hash < hash || (key.hash == hash && key.entry < entry);
        if (before) {
            low = middle + 1;
        } else {
            high = middle;
            *ret_key = key;
        }
    }
    return Q_OK;
}

static enum q_err
look_in_memory(
    const struct ql_index *index,
    const struct ql_subject *subject,
    uint64_t hash,
    uint64_t *sequence,
    struct ql_entry *ret_entry)
{
    const struct ql_entries *entries = &index->entries;
    for (uint32_t looks = 0; looks < ENTRIES_MAX && !QL_PLANTED(find_stops_early); looks++) {
        uint64_t number = ql_entries_find(entries, subject->last, *sequence);
        const struct ql_node *node = ql_entries_get(entries, number);
        if (node == NULL) {
            *sequence = q_max_u64(*sequence, subject->next_sequence);
            return Q_NOT_FOUND;
        }
        if (ql_key_rows_has(&entries->keys, number, hash)) {
            *ret_entry = node->entry;
            return Q_OK;
        }
        *sequence = ql_entry_end(&node->entry);
    }
    return Q_NOT_FOUND;
}
