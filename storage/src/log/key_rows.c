#include "log/key_rows.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <qbase/assert.h>

enum {
    CHUNK_BYTES = QL_KEY_ROWS_CHUNK * sizeof(struct ql_key_row)
};

static const struct ql_key_row *
keys_get(const struct ql_key_rows *keys, uint64_t row)
{
    return &keys->chunks[row / QL_KEY_ROWS_CHUNK - keys->chunk_first][row % QL_KEY_ROWS_CHUNK];
}

void
ql_key_rows_init(struct ql_key_rows *keys)
{
    *keys = (struct ql_key_rows){ 0 };
}

void
ql_key_rows_fini(struct ql_key_rows *keys)
{
    for (uint32_t i = 0; i < keys->chunk_count; i++)
        (void)munmap(keys->chunks[i], CHUNK_BYTES);
    free(keys->chunks);
    ql_key_rows_init(keys);
}

enum q_err
ql_key_rows_reserve(struct ql_key_rows *keys, uint64_t count)
{
    for (;;) {
        uint64_t room = (keys->chunk_first + keys->chunk_count) * QL_KEY_ROWS_CHUNK;
        if (room >= keys->end && room - keys->end >= count) return Q_OK;
        if (keys->chunk_count == keys->chunk_capacity) {
            uint32_t capacity = keys->chunk_capacity == 0 ? 16 : keys->chunk_capacity * 2;
            struct ql_key_row **chunks = realloc(keys->chunks, capacity * sizeof(*chunks));
            if (chunks == NULL) return Q_FAIL(Q_E_NOMEM, .what = "keys of the message log");
            keys->chunks = chunks;
            keys->chunk_capacity = capacity;
        }
        void *chunk =
            mmap(NULL, CHUNK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (chunk == MAP_FAILED) return Q_FAIL(Q_E_NOMEM, .what = "keys of the message log");
        keys->chunks[keys->chunk_count++] = chunk;
    }
}

void
ql_key_rows_add(struct ql_key_rows *keys, uint64_t hash, uint64_t number)
{
    uint64_t chunk = keys->end / QL_KEY_ROWS_CHUNK - keys->chunk_first;
    Q_ASSERT(chunk < keys->chunk_count);
    keys->chunks[chunk][keys->end % QL_KEY_ROWS_CHUNK] = (struct ql_key_row){ hash, number };
    keys->end++;
}

uint64_t
ql_key_rows_from(const struct ql_key_rows *keys, uint64_t number)
{
    uint64_t low = keys->floor;
    uint64_t high = keys->end;
    while (low < high) {
        uint64_t middle = low + (high - low) / 2;
        if (keys_get(keys, middle)->number < number)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

bool
ql_key_rows_has(const struct ql_key_rows *keys, uint64_t number, uint64_t hash)
{
    for (uint64_t row = ql_key_rows_from(keys, number); row < keys->end; row++) {
        const struct ql_key_row *key = keys_get(keys, row);
        if (key->number != number) return false;
        if (key->hash == hash) return true;
    }
    return false;
}

void
ql_key_rows_drop(struct ql_key_rows *keys, uint64_t number)
{
    keys->floor = ql_key_rows_from(keys, number);
    uint32_t gone = 0;
    while (gone < keys->chunk_count &&
           (keys->chunk_first + gone + 1) * QL_KEY_ROWS_CHUNK <= keys->floor)
        (void)munmap(keys->chunks[gone++], CHUNK_BYTES);
    keys->chunk_count -= gone;
    keys->chunk_first += gone;
    if (gone > 0)
        memmove(keys->chunks, keys->chunks + gone, keys->chunk_count * sizeof(*keys->chunks));
}
