#include "log/entries.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <qbase/assert.h>
#include <qbase/bytes.h>
#include <qbatch/layout.h>

/* Of pages of their own: they come and go between what stays, and go back to the system. */
enum {
    CHUNK_BYTES = QL_ENTRIES_CHUNK * sizeof(struct ql_node)
};

static uint64_t entries_jump(const struct ql_entries *entries, uint64_t number);

void
ql_entries_init(struct ql_entries *entries)
{
    *entries = (struct ql_entries){ .floor = 1, .end = 1 };
    ql_key_rows_init(&entries->keys);
}

void
ql_entries_fini(struct ql_entries *entries)
{
    for (uint32_t i = 0; i < entries->chunk_count; i++)
        (void)munmap(entries->chunks[i], CHUNK_BYTES);
    free(entries->chunks);
    ql_key_rows_fini(&entries->keys);
    ql_entries_init(entries);
}

enum q_err
ql_entries_reserve(struct ql_entries *entries, uint32_t count)
{
    for (;;) {
        uint64_t room = (entries->chunk_first + entries->chunk_count) * QL_ENTRIES_CHUNK;
        if (room >= entries->end && room - entries->end >= count) return Q_OK;
        if (entries->chunk_count == entries->chunk_capacity) {
            uint32_t capacity = entries->chunk_capacity == 0 ? 16 : entries->chunk_capacity * 2;
            struct ql_node **chunks = realloc(entries->chunks, capacity * sizeof(*chunks));
            if (chunks == NULL) return Q_FAIL(Q_E_NOMEM, .what = "index of the message log");
            entries->chunks = chunks;
            entries->chunk_capacity = capacity;
        }
        void *chunk =
            mmap(NULL, CHUNK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (chunk == MAP_FAILED) return Q_FAIL(Q_E_NOMEM, .what = "index of the message log");
        entries->chunks[entries->chunk_count++] = chunk;
    }
}

uint64_t
ql_entries_add(
    struct ql_entries *entries,
    uint64_t last,
    uint32_t subject_id,
    const struct ql_entry *entry,
    uint64_t wall_ms)
{
    uint64_t number = entries->end;
    struct ql_node node = { .entry = *entry, .wall_ms = wall_ms, .subject_id = subject_id };
    const struct ql_node *before = ql_entries_get(entries, last);
    if (before != NULL && number - last <= UINT32_MAX) {
        node.back = (uint32_t)(number - last);
        node.depth = before->depth + 1;
        /* Two jumps of one length become one of twice that and one. */
        uint64_t middle = entries_jump(entries, last);
        uint64_t far = entries_jump(entries, middle);
        uint64_t to = last;
        if (far != 0) {
            uint32_t near_depth = ql_entries_get(entries, middle)->depth;
            uint32_t far_depth = ql_entries_get(entries, far)->depth;
            if (before->depth - near_depth == near_depth - far_depth) to = far;
        }
        node.jump = number - to <= UINT32_MAX ? (uint32_t)(number - to) : node.back;
    }
    uint64_t chunk = number / QL_ENTRIES_CHUNK - entries->chunk_first;
    Q_ASSERT(chunk < entries->chunk_count);
    entries->chunks[chunk][number % QL_ENTRIES_CHUNK] = node;
    entries->end++;
    return number;
}

uint32_t
ql_entries_key_count(const uint8_t *envelope)
{
    return q_load_le32(envelope + QBATCH_KEY_COUNT);
}

void
ql_entries_add_keys(struct ql_entries *entries, const uint8_t *envelope)
{
    uint32_t count = ql_entries_key_count(envelope);
    const uint8_t *key = envelope + QBATCH_HEADER_SIZE +
                         (size_t)q_load_le32(envelope + QBATCH_MESSAGE_COUNT) * QBATCH_ENTRY_SIZE;
    for (uint32_t i = 0; i < count; i++, key += QBATCH_KEY_SIZE)
        ql_key_rows_add(&entries->keys, q_load_le64(key + QBATCH_KEY_HASH), entries->end - 1);
}

const struct ql_node *
ql_entries_get(const struct ql_entries *entries, uint64_t number)
{
    if (number < entries->floor || number >= entries->end) return NULL;
    uint64_t chunk = number / QL_ENTRIES_CHUNK - entries->chunk_first;
    return &entries->chunks[chunk][number % QL_ENTRIES_CHUNK];
}

uint64_t
ql_entries_before(const struct ql_entries *entries, uint64_t number)
{
    const struct ql_node *node = ql_entries_get(entries, number);
    if (node == NULL || node->back == 0 || number - node->back < entries->floor) return 0;
    return number - node->back;
}

static uint64_t
entries_jump(const struct ql_entries *entries, uint64_t number)
{
    const struct ql_node *node = ql_entries_get(entries, number);
    if (node == NULL || node->jump == 0 || number - node->jump < entries->floor) return 0;
    return number - node->jump;
}

uint64_t
ql_entries_find(const struct ql_entries *entries, uint64_t last, uint64_t sequence)
{
    const struct ql_node *node = ql_entries_get(entries, last);
    if (node == NULL || ql_entry_end(&node->entry) <= sequence) return 0;
    /* `found` ends behind `sequence`; as far back as that holds, by jumps where they lead there. */
    uint64_t found = last;
    for (;;) {
        uint64_t to = entries_jump(entries, found);
        if (to != 0 && ql_entry_end(&ql_entries_get(entries, to)->entry) > sequence) {
            found = to;
            continue;
        }
        to = ql_entries_before(entries, found);
        if (to == 0 || ql_entry_end(&ql_entries_get(entries, to)->entry) <= sequence) return found;
        found = to;
    }
}

void
ql_entries_drop(struct ql_entries *entries, uint64_t number)
{
    Q_ASSERT(number <= entries->end);
    if (number <= entries->floor) return;
    entries->floor = number;
    ql_key_rows_drop(&entries->keys, number);
    uint32_t gone = 0;
    while (gone < entries->chunk_count &&
           (entries->chunk_first + gone + 1) * QL_ENTRIES_CHUNK <= number)
        (void)munmap(entries->chunks[gone++], CHUNK_BYTES);
    entries->chunk_count -= gone;
    entries->chunk_first += gone;
    if (gone > 0)
        memmove(
            entries->chunks, entries->chunks + gone,
            entries->chunk_count * sizeof(*entries->chunks));
}
