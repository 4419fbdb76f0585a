#include "format/index_file.h"

#include <stdlib.h>
#include <string.h>

#include <qbase/assert.h>
#include <qbase/clock.h>
#include <qlog/guard.h>

#include "planted.h"

static enum q_err view_row(
    struct ql_index_view *view, uint64_t at, uint64_t size, const uint8_t **ret_row);
static enum q_err view_check_page(struct ql_index_view *view, uint64_t page);
static enum q_err view_hash_page(void *context);

void
ql_index_header_encode(const struct ql_index_header *header, uint8_t block[QL_BLOCK])
{
    memset(block, 0, QL_BLOCK);
    q_store_le32(block + QL_INDEX_MAGIC_AT, QL_INDEX_MAGIC);
    q_store_le16(block + QL_INDEX_VERSION, QL_FORMAT_VERSION);
    block[QL_INDEX_SEALED] = header->sealed;
    memcpy(block + QL_INDEX_STORE_ID, header->store_id, sizeof(header->store_id));
    memcpy(block + QL_INDEX_LOG_NAME, header->log_name, QL_LOG_NAME_MAX);
    q_store_le64(block + QL_INDEX_INCARNATION, header->incarnation);
    q_store_le64(block + QL_INDEX_BASE, header->base);
    q_store_le64(block + QL_INDEX_END, header->end);
    q_store_le64(block + QL_INDEX_CHAIN, header->chain);
    q_store_le64(block + QL_INDEX_GENERATION, header->generation);
    q_store_le64(block + QL_INDEX_WALL_MS, header->wall_ms);
    q_store_le64(block + QL_INDEX_CREATED_MS, header->created_ms);
    q_store_le64(block + QL_INDEX_ROT_FROM, header->rot_from);
    q_store_le64(block + QL_INDEX_ROT_TO, header->rot_to);
    q_store_le32(block + QL_INDEX_ENTRIES, header->entry_count);
    q_store_le32(block + QL_INDEX_SUBJECTS, header->subject_count);
    q_store_le32(block + QL_INDEX_TIMES, header->time_count);
    q_store_le32(block + QL_INDEX_KEYS, header->key_count);
    q_store_le64(block + QL_INDEX_PAGES_HASH, header->pages_hash);
    q_store_le64(block + QL_INDEX_HASH, ql_hash(block + 8, QL_BLOCK - 8));
}

enum ql_block_state
ql_index_header_decode(const uint8_t block[QL_BLOCK], struct ql_index_header *ret_header)
{
    enum ql_block_state state =
        ql_block_check(block, QL_BLOCK, QL_INDEX_MAGIC, q_load_le16(block + QL_INDEX_VERSION));
    if (state != QL_BLOCK_GOOD) return state;
    struct ql_index_header header = {
        .sealed = block[QL_INDEX_SEALED] == 1,
        .incarnation = q_load_le64(block + QL_INDEX_INCARNATION),
        .base = q_load_le64(block + QL_INDEX_BASE),
        .end = q_load_le64(block + QL_INDEX_END),
        .chain = q_load_le64(block + QL_INDEX_CHAIN),
        .generation = q_load_le64(block + QL_INDEX_GENERATION),
        .wall_ms = q_load_le64(block + QL_INDEX_WALL_MS),
        .created_ms = q_load_le64(block + QL_INDEX_CREATED_MS),
        .rot_from = q_load_le64(block + QL_INDEX_ROT_FROM),
        .rot_to = q_load_le64(block + QL_INDEX_ROT_TO),
        .entry_count = q_load_le32(block + QL_INDEX_ENTRIES),
        .subject_count = q_load_le32(block + QL_INDEX_SUBJECTS),
        .time_count = q_load_le32(block + QL_INDEX_TIMES),
        .key_count = q_load_le32(block + QL_INDEX_KEYS),
        .pages_hash = q_load_le64(block + QL_INDEX_PAGES_HASH),
    };
    memcpy(header.store_id, block + QL_INDEX_STORE_ID, sizeof(header.store_id));
    memcpy(header.log_name, block + QL_INDEX_LOG_NAME, QL_LOG_NAME_MAX);
    if (header.log_name[QL_LOG_NAME_MAX - 1] != '\0') return QL_BLOCK_FOREIGN;
    if (header.base % QL_BLOCK != 0 || header.end % QL_BLOCK != 0 || header.end < header.base)
        return QL_BLOCK_FOREIGN;
    *ret_header = header;
    return QL_BLOCK_GOOD;
}

struct ql_index_layout
ql_index_layout(const struct ql_index_header *header)
{
    /* Counts of 32 bits times sizes of rows: far from any overflow. */
    struct ql_index_layout layout = { .entries_at = QL_INDEX_HEADER_SIZE };
    layout.subjects_at = layout.entries_at + (uint64_t)header->entry_count * QL_INDEX_ENTRY_SIZE;
    layout.times_at = layout.subjects_at + (uint64_t)header->subject_count * QL_INDEX_SUBJECT_SIZE;
    layout.keys_at = layout.times_at + (uint64_t)header->time_count * QL_INDEX_TIME_SIZE;
    layout.pages_at = layout.keys_at + (uint64_t)header->key_count * QL_INDEX_KEY_SIZE;
    uint64_t tables = layout.pages_at - layout.entries_at;
    layout.page_count = (tables + QL_INDEX_PAGE - 1) / QL_INDEX_PAGE;
    layout.file_size = q_align_up(layout.pages_at + layout.page_count * 8, QL_BLOCK);
    return layout;
}

enum q_err
ql_index_view_init(
    struct ql_index_view *view, const struct ql_index_header *header, const uint8_t *file)
{
    *view = (struct ql_index_view){
        .header = *header,
        .layout = ql_index_layout(header),
        .file = file,
    };
    view->checked = calloc(1, view->layout.page_count / 8 + 1);
    if (view->checked == NULL) return Q_FAIL(Q_E_NOMEM, .what = "index file");
    return Q_OK;
}

void
ql_index_view_fini(struct ql_index_view *view)
{
    free(view->checked);
    *view = (struct ql_index_view){ 0 };
}

enum q_err
ql_index_view_check(struct ql_index_view *view)
{
    for (uint64_t page = 0; page < view->layout.page_count; page++)
        Q_TRY(view_check_page(view, page));
    return Q_OK;
}

static enum q_err
view_fail(const struct ql_index_view *view, const char *what)
{
    return Q_FAIL(
        Q_E_CORRUPT, .position = (int64_t)view->header.base,
        .what = q_text("index of a segment: %s", what));
}

struct page_check {
    struct ql_index_view *view;
    uint64_t page;
};

static enum q_err
view_check_page(struct ql_index_view *view, uint64_t page)
{
    if ((view->checked[page / 8] >> page % 8 & 1) != 0) return Q_OK;
    struct page_check check = { .view = view, .page = page };
    enum q_err err = qlog_guard(view_hash_page, &check);
    /* What the disk does not give is made again like what it gives wrong. */
    if (err == Q_E_IO) return view_fail(view, "the disk does not give a page");
    return err;
}

/* Under a guard. */
static enum q_err
view_hash_page(void *context)
{
    const struct page_check *check = context;
    struct ql_index_view *view = check->view;
    uint64_t page = check->page;
    const struct ql_index_layout *layout = &view->layout;
    const uint8_t *hashes = view->file + layout->pages_at;
    if (!view->pages_checked) {
        if (ql_hash(hashes, layout->page_count * 8) != view->header.pages_hash)
            return view_fail(view, "the hashes of its pages are damaged");
        view->pages_checked = true;
    }
    uint64_t at = layout->entries_at + page * QL_INDEX_PAGE;
    uint64_t size = q_min_u64(QL_INDEX_PAGE, layout->pages_at - at);
    bool good = ql_hash(view->file + at, size) == q_load_le64(hashes + page * 8);
    if (!good && !QL_PLANTED(index_page_unchecked)) return view_fail(view, "a page is damaged");
    view->checked[page / 8] |= (uint8_t)(1u << page % 8);
    return Q_OK;
}

/* `size` bytes of a table, in at most two pages. */
static enum q_err
view_row(struct ql_index_view *view, uint64_t at, uint64_t size, const uint8_t **ret_row)
{
    uint64_t from = (at - view->layout.entries_at) / QL_INDEX_PAGE;
    uint64_t to = (at + size - 1 - view->layout.entries_at) / QL_INDEX_PAGE;
    Q_TRY(view_check_page(view, from));
    if (to != from) Q_TRY(view_check_page(view, to));
    *ret_row = view->file + at;
    return Q_OK;
}

enum q_err
ql_index_view_subject(struct ql_index_view *view, uint32_t at, struct ql_index_subject *ret_subject)
{
    Q_ASSERT(at < view->header.subject_count);
    const uint8_t *row;
    Q_TRY(view_row(
        view, view->layout.subjects_at + (uint64_t)at * QL_INDEX_SUBJECT_SIZE,
        QL_INDEX_SUBJECT_SIZE, &row));
    *ret_subject = (struct ql_index_subject){
        .id = q_load_le32(row + QL_INDEX_SUBJECT_ID),
        .first = q_load_le32(row + QL_INDEX_SUBJECT_FIRST),
        .count = q_load_le32(row + QL_INDEX_SUBJECT_COUNT),
        .next_sequence = q_load_le64(row + QL_INDEX_SUBJECT_NEXT),
    };
    uint32_t entries = view->header.entry_count;
    if (ret_subject->first > entries || ret_subject->count > entries - ret_subject->first)
        return view_fail(view, "a subject's entries are not there");
    return Q_OK;
}

enum q_err
ql_index_view_subject_of(
    struct ql_index_view *view, uint32_t at, struct ql_index_subject *ret_subject)
{
    uint32_t low = 0;
    uint32_t high = view->header.subject_count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        Q_TRY(ql_index_view_subject(view, middle, ret_subject));
        if (at >= ret_subject->first && at - ret_subject->first < ret_subject->count) return Q_OK;
        if (ret_subject->first < at)
            low = middle + 1;
        else
            high = middle;
    }
    return view_fail(view, "an entry is of no subject");
}

enum q_err
ql_index_view_find_subject(
    struct ql_index_view *view, uint32_t id, struct ql_index_subject *ret_subject)
{
    uint32_t low = 0;
    uint32_t high = view->header.subject_count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        Q_TRY(ql_index_view_subject(view, middle, ret_subject));
        if (ret_subject->id == id) return Q_OK;
        if (ret_subject->id < id)
            low = middle + 1;
        else
            high = middle;
    }
    return Q_NOT_FOUND;
}

enum q_err
ql_index_view_entry(struct ql_index_view *view, uint32_t at, struct ql_entry *ret_entry)
{
    Q_ASSERT(at < view->header.entry_count);
    const uint8_t *row;
    Q_TRY(view_row(
        view, view->layout.entries_at + (uint64_t)at * QL_INDEX_ENTRY_SIZE, QL_INDEX_ENTRY_SIZE,
        &row));
    *ret_entry = (struct ql_entry){
        .first_sequence = q_load_le64(row + QL_INDEX_ENTRY_SEQUENCE),
        .frame = view->header.base + q_load_le32(row + QL_INDEX_ENTRY_FRAME),
        .frame_size = q_load_le32(row + QL_INDEX_ENTRY_FRAME_SIZE),
        .envelope_at = q_load_le32(row + QL_INDEX_ENTRY_ENVELOPE_AT),
        .envelope_size = q_load_le32(row + QL_INDEX_ENTRY_ENVELOPE_SIZE),
        .payload_at = q_load_le32(row + QL_INDEX_ENTRY_PAYLOAD_AT),
        .payload_size = q_load_le32(row + QL_INDEX_ENTRY_PAYLOAD_SIZE),
        .count = q_load_le32(row + QL_INDEX_ENTRY_COUNT),
    };
    const struct ql_entry *entry = ret_entry;
    bool frame =
        entry->frame < view->header.end && entry->frame_size <= view->header.end - entry->frame;
    bool envelope = entry->envelope_at <= entry->frame_size &&
                    entry->envelope_size <= entry->frame_size - entry->envelope_at;
    bool payload = entry->payload_at <= entry->frame_size &&
                   entry->payload_size <= entry->frame_size - entry->payload_at;
    bool count = entry->count > 0 && entry->first_sequence <= UINT64_MAX - entry->count;
    if (!frame || !envelope || !payload || !count) return view_fail(view, "an entry is impossible");
    return Q_OK;
}

enum q_err
ql_index_view_find(
    struct ql_index_view *view,
    uint32_t subject_id,
    uint64_t sequence,
    struct ql_index_subject *ret_subject,
    uint32_t *ret_at,
    struct ql_entry *ret_entry)
{
    enum q_err err = ql_index_view_find_subject(view, subject_id, ret_subject);
    if (err != Q_OK) return err;
    uint32_t end = ret_subject->first + ret_subject->count;
    uint32_t low = ret_subject->first;
    uint32_t high = end;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        Q_TRY(ql_index_view_entry(view, middle, ret_entry));
        if (ql_entry_end(ret_entry) <= sequence)
            low = middle + 1;
        else
            high = middle;
    }
    if (low == end) return Q_END;
    *ret_at = low;
    return ql_index_view_entry(view, low, ret_entry);
}

enum q_err
ql_index_view_time(struct ql_index_view *view, uint64_t wall_ms, uint64_t *ret_position)
{
    /* The first row that is not earlier, or the one before it: its second may reach up to that time. */
    uint32_t low = 0;
    uint32_t high = view->header.time_count;
    if (high == 0 || wall_ms > view->header.wall_ms) return Q_NOT_FOUND;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        const uint8_t *row;
        Q_TRY(view_row(
            view, view->layout.times_at + (uint64_t)middle * QL_INDEX_TIME_SIZE, QL_INDEX_TIME_SIZE,
            &row));
        if (q_load_le64(row + QL_INDEX_TIME_MS) < wall_ms)
            low = middle + 1;
        else
            high = middle;
    }
    const uint8_t *row;
    uint32_t at = low == 0 ? 0 : low - 1;
    Q_TRY(view_row(
        view, view->layout.times_at + (uint64_t)at * QL_INDEX_TIME_SIZE, QL_INDEX_TIME_SIZE, &row));
    /* A row is the first batch of its second: later ones of it count, those of later seconds don't. */
    bool over = q_load_le64(row + QL_INDEX_TIME_MS) / Q_MS_PER_S < wall_ms / Q_MS_PER_S;
    if (over && low < view->header.time_count)
        Q_TRY(view_row(
            view, view->layout.times_at + (uint64_t)low * QL_INDEX_TIME_SIZE, QL_INDEX_TIME_SIZE,
            &row));
    *ret_position = q_load_le64(row + QL_INDEX_TIME_POSITION);
    return Q_OK;
}

enum q_err
ql_index_view_second(struct ql_index_view *view, uint64_t position, uint64_t *ret_ms)
{
    /* The last row that does not begin behind it. */
    uint32_t low = 0;
    uint32_t high = view->header.time_count;
    *ret_ms = 0;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        const uint8_t *row;
        Q_TRY(view_row(
            view, view->layout.times_at + (uint64_t)middle * QL_INDEX_TIME_SIZE, QL_INDEX_TIME_SIZE,
            &row));
        if (q_load_le64(row + QL_INDEX_TIME_POSITION) <= position) {
            *ret_ms = q_load_le64(row + QL_INDEX_TIME_MS);
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return Q_OK;
}

enum q_err
ql_index_view_key(struct ql_index_view *view, uint32_t at, struct ql_index_key *ret_key)
{
    Q_ASSERT(at < view->header.key_count);
    const uint8_t *row;
    Q_TRY(view_row(
        view, view->layout.keys_at + (uint64_t)at * QL_INDEX_KEY_SIZE, QL_INDEX_KEY_SIZE, &row));
    *ret_key = (struct ql_index_key){
        .hash = q_load_le64(row + QL_INDEX_KEY_HASH),
        .entry = q_load_le32(row + QL_INDEX_KEY_ENTRY),
    };
    if (ret_key->entry >= view->header.entry_count)
        return view_fail(view, "a key's entry is not there");
    return Q_OK;
}

enum q_err
ql_index_view_find_key(struct ql_index_view *view, uint64_t hash, uint32_t *ret_at)
{
    uint32_t low = 0;
    uint32_t high = view->header.key_count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        struct ql_index_key key;
        Q_TRY(ql_index_view_key(view, middle, &key));
        if (key.hash < hash)
            low = middle + 1;
        else
            high = middle;
    }
    *ret_at = low;
    return Q_OK;
}
