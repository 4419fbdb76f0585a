#include "look/places.h"

#include <stdlib.h>

#include <qlog/guard.h>

#include "log/index.h"

struct look {
    const struct ql_places_wanted *wanted;
    struct ql_places *places;
    struct ql_index_view *view;
};

static enum q_err look_at_file(
    struct look *look, struct ql_index_files *files, uint64_t base, uint64_t *ret_covered);
static enum q_err look_at_view(void *context);
static enum q_err look_at_times(const struct look *look);
static enum q_err look_at_subject(const struct look *look);
static enum q_err look_at_key(const struct look *look);
static enum q_err look_at_keys_entry(const struct look *look, uint32_t at);
static int compare_places(const void *a, const void *b);
static void join_places(struct ql_places *places, uint32_t first);
static enum q_err add_place(struct ql_places *places, uint64_t from, uint64_t to);

enum q_err
ql_places_find(
    struct ql_home *home, const struct ql_places_wanted *wanted, struct ql_places *ret_places)
{
    struct ql_log *log = &home->logs[0];
    const struct ql_segment_set *segments = &log->segments;
    struct ql_index_files files;
    struct look look = { .wanted = wanted, .places = ret_places };
    *ret_places = (struct ql_places){ .segments = segments->count };
    ql_index_files_init(&files, log, NULL, false);
    enum q_err err = ql_index_files_open(&files);
    for (uint32_t i = 0; err == Q_OK && i < segments->count; i++) {
        bool last = i + 1 == segments->count;
        uint64_t base = segments->segments[i]->base;
        uint64_t end = last ? UINT64_MAX : segments->segments[i + 1]->base;
        uint64_t covered;
        err = look_at_file(&look, &files, base, &covered);
        if (err != Q_OK) break;
        if (covered < end) err = add_place(ret_places, covered, end);
        if (covered < end && !last) ret_places->unindexed++;
    }
    ql_index_files_fini(&files);
    if (err == Q_OK) return Q_OK;
    ql_places_fini(ret_places);
    return err;
}

void
ql_places_fini(struct ql_places *places)
{
    free(places->places);
    *places = (struct ql_places){ 0 };
}

/* `*ret_covered`: of what lies below, the file has told all that is wanted. */
static enum q_err
look_at_file(struct look *look, struct ql_index_files *files, uint64_t base, uint64_t *ret_covered)
{
    struct ql_index_file *file = ql_index_files_of(files, base);
    uint32_t first = look->places->count;
    *ret_covered = base;
    if (file == NULL || file->view.header.rot_from < file->view.header.rot_to) return Q_OK;
    enum q_err err = Q_OK;
    if (file->view.header.wall_ms >= look->wanted->since_ms) {
        look->view = &file->view;
        err = ql_index_files_view(files, file);
        if (err == Q_OK) err = qlog_guard(look_at_view, look);
    }
    if (err == Q_OK) *ret_covered = file->view.header.end;
    if (!ql_index_is_damaged(err)) return err;
    look->places->count = first;
    return Q_OK;
}

static enum q_err
look_at_view(void *context)
{
    const struct look *look = context;
    if (look->wanted->one_key) return look_at_key(look);
    return look->wanted->one_subject ? look_at_subject(look) : look_at_times(look);
}

static enum q_err
look_at_times(const struct look *look)
{
    uint64_t from;
    enum q_err err = ql_index_view_time(look->view, look->wanted->since_ms, &from);
    if (err == Q_NOT_FOUND) return Q_OK;
    Q_TRY(err);
    return add_place(look->places, from, look->view->header.end);
}

static enum q_err
look_at_subject(const struct look *look)
{
    const struct ql_places_wanted *wanted = look->wanted;
    struct ql_index_subject row;
    struct ql_entry entry;
    uint32_t at;
    enum q_err err =
        ql_index_view_find(look->view, wanted->subject_id, wanted->from, &row, &at, &entry);
    uint64_t since = 0;
    if (err == Q_OK && wanted->since_ms > 0)
        err = ql_index_view_time(look->view, wanted->since_ms, &since);
    if (err == Q_NOT_FOUND || err == Q_END) return Q_OK;
    Q_TRY(err);
    for (; at < row.first + row.count; at++) {
        Q_TRY(ql_index_view_entry(look->view, at, &entry));
        if (entry.first_sequence > wanted->to) break;
        if (entry.frame < since) continue;
        Q_TRY(add_place(look->places, entry.frame, entry.frame + entry.frame_size));
    }
    return Q_OK;
}

static enum q_err
look_at_key(const struct look *look)
{
    struct ql_index_view *view = look->view;
    uint32_t first = look->places->count;
    uint32_t at;
    Q_TRY(ql_index_view_find_key(view, look->wanted->key_hash, &at));
    for (; at < view->header.key_count; at++) {
        struct ql_index_key key;
        Q_TRY(ql_index_view_key(view, at, &key));
        if (key.hash != look->wanted->key_hash) break;
        Q_TRY(look_at_keys_entry(look, key.entry));
    }
    join_places(look->places, first);
    return Q_OK;
}

static enum q_err
look_at_keys_entry(const struct look *look, uint32_t at)
{
    const struct ql_places_wanted *wanted = look->wanted;
    struct ql_index_subject subject;
    struct ql_entry entry;
    Q_TRY(ql_index_view_subject_of(look->view, at, &subject));
    if (wanted->one_subject && subject.id != wanted->subject_id) return Q_OK;
    Q_TRY(ql_index_view_entry(look->view, at, &entry));
    if (entry.first_sequence > wanted->to || ql_entry_end(&entry) <= wanted->from) return Q_OK;
    return add_place(look->places, entry.frame, entry.frame + entry.frame_size);
}

/* Keys are in the order of subjects; the log is read forward. */
static void
join_places(struct ql_places *places, uint32_t first)
{
    if (places->count - first < 2) return;
    struct ql_place_range *ranges = &places->places[first];
    qsort(ranges, places->count - first, sizeof(*ranges), compare_places);
    uint32_t last = 0;
    for (uint32_t i = 1; i < places->count - first; i++) {
        if (ranges[i].from <= ranges[last].to)
            ranges[last].to = q_max_u64(ranges[last].to, ranges[i].to);
        else
            ranges[++last] = ranges[i];
    }
    places->count = first + last + 1;
}

static int
compare_places(const void *a, const void *b)
{
    uint64_t left = ((const struct ql_place_range *)a)->from;
    uint64_t right = ((const struct ql_place_range *)b)->from;
    return left < right ? -1 : left > right;
}

static enum q_err
add_place(struct ql_places *places, uint64_t from, uint64_t to)
{
    struct ql_place_range *last = places->count == 0 ? NULL : &places->places[places->count - 1];
    if (last != NULL && from >= last->from && from <= last->to) {
        last->to = q_max_u64(last->to, to);
        return Q_OK;
    }
    if (places->count == places->capacity) {
        uint32_t capacity = places->capacity == 0 ? 64 : places->capacity * 2;
        struct ql_place_range *grown = realloc(places->places, capacity * sizeof(*grown));
        if (grown == NULL) return Q_FAIL(Q_E_NOMEM, .what = "places in a log");
        places->places = grown;
        places->capacity = capacity;
    }
    places->places[places->count++] = (struct ql_place_range){ from, to };
    return Q_OK;
}
