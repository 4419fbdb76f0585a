#include "read/keep.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <qbase/assert.h>
#include <qbase/bytes.h>

#include "format/layout.h"

enum {
    ALIGN_TAIL = 64,
    BITS_OF_BYTE = 8,
    BITS_OF_WORD = 64,
    BYTES_OF_WORD = BITS_OF_BYTE * BITS_OF_WORD, /* of data, that one word of bits is for */
    BYTES_OF_BITS = BITS_OF_BYTE * BITS_OF_BYTE, /* ... that one byte of bits is for */
};

static struct ql_keep_block *keep_room(
    struct ql_keep *keep, enum ql_keep_kind kind, uint64_t size, bool always);
static bool block_has_room(const struct ql_keep_block *block, uint64_t size);
static bool keep_make_room(struct ql_keep *keep, enum ql_keep_kind kind, uint64_t size);
static void keep_drop(struct ql_keep *keep, struct ql_keep_block **at);
static struct ql_keep_block *block_new(struct ql_keep *keep, enum ql_keep_kind kind, uint64_t size);
static struct ql_keep_block *block_map(uint64_t size);
static void block_free(struct ql_keep_block *block);
static bool keep_list(struct ql_keep *keep, struct ql_kept *kept);
static uint32_t keep_behind(const struct ql_keep *keep, uint64_t position);
static struct ql_kept *keep_find(
    struct ql_keep *keep, uint64_t position, uint64_t size, bool checked);
static bool kept_serves(const struct ql_kept *kept, uint64_t position, uint64_t size, bool checked);

void
ql_keep_init(struct ql_keep *keep, uint64_t tail_bytes, uint64_t fetched_bytes)
{
    *keep = (struct ql_keep){
        .bytes_max = { [QL_KEEP_TAIL] = tail_bytes, [QL_KEEP_FETCHED] = fetched_bytes },
    };
}

void
ql_keep_fini(struct ql_keep *keep)
{
    for (unsigned kind = 0; kind < QL_KEEP_KINDS; kind++) {
        while (keep->blocks[kind] != NULL) {
            struct ql_keep_block *block = keep->blocks[kind];
            keep->blocks[kind] = block->next;
            Q_ASSERT(atomic_load_explicit(&block->pins, memory_order_acquire) == 0);
            block_free(block);
        }
    }
    block_free(keep->spare);
    free(keep->sorted);
    *keep = (struct ql_keep){ 0 };
}

struct ql_kept *
ql_keep_add(
    struct ql_keep *keep,
    enum ql_keep_kind kind,
    uint64_t from,
    uint64_t size,
    void *filler,
    bool always)
{
    struct ql_keep_block *block = keep_room(keep, kind, size, always);
    if (block == NULL) return NULL;
    struct ql_kept *kept = &block->ranges[block->range_count];
    *kept = (struct ql_kept){
        .from = from,
        .size = size,
        .data = block->data + block->used,
        .block = block,
        .filler = filler,
    };
    if (!keep_list(keep, kept)) return NULL;
    block->range_count++;
    block->used += q_align_up(size, kind == QL_KEEP_TAIL ? ALIGN_TAIL : QL_BLOCK);
    block->stamp = ++keep->stamp;
    block->looked_ns = keep->now_ns;
    keep->longest = q_max_u64(keep->longest, size);
    return kept;
}

/* The block of this kind that is being filled, or the next one. */
static struct ql_keep_block *
keep_room(struct ql_keep *keep, enum ql_keep_kind kind, uint64_t size, bool always)
{
    struct ql_keep_block *block = keep->blocks[kind];
    if (block != NULL && block_has_room(block, size)) return block;
    uint64_t wanted = q_max_u64(q_align_up(size, QL_BLOCK), QL_KEEP_BLOCK);
    /* What never fits is no reason to give up anything. */
    if (wanted > keep->bytes_max[kind] && !always) return NULL;
    if (!keep_make_room(keep, kind, wanted) && !always) return NULL;
    block = block_new(keep, kind, wanted);
    if (block == NULL) return NULL;
    keep->bytes[kind] += block->size;
    block->next = keep->blocks[kind];
    keep->blocks[kind] = block;
    return block;
}

static bool
block_has_room(const struct ql_keep_block *block, uint64_t size)
{
    return block->range_count < QL_KEEP_RANGES && size <= block->size - block->used;
}

/* Give up blocks until there is room for `size` more bytes. */
static bool
keep_make_room(struct ql_keep *keep, enum ql_keep_kind kind, uint64_t size)
{
    while (keep->bytes[kind] + size > keep->bytes_max[kind]) {
        struct ql_keep_block **oldest = NULL;
        struct ql_keep_block **at = &keep->blocks[kind];
        for (; *at != NULL; at = &(*at)->next) {
            /* Pairs with the release in ql_keep_unpin(): reads come before the block goes. */
            if (atomic_load_explicit(&(*at)->pins, memory_order_acquire) > 0) continue;
            if (oldest == NULL || (*at)->stamp < (*oldest)->stamp) oldest = at;
        }
        if (oldest == NULL) return false;
        keep_drop(keep, oldest);
    }
    return true;
}

static void
keep_drop(struct ql_keep *keep, struct ql_keep_block **at)
{
    struct ql_keep_block *block = *at;
    uint32_t kept = 0;
    for (uint32_t i = 0; i < keep->count; i++)
        if (keep->sorted[i]->block != block) keep->sorted[kept++] = keep->sorted[i];
    keep->count = kept;
    if (keep->last != NULL && keep->last->block == block) keep->last = NULL;
    keep->bytes[block->kind] -= block->size;
    *at = block->next;
    if (keep->spare == NULL && block->size == QL_KEEP_BLOCK)
        keep->spare = block;
    else
        block_free(block);
}

static struct ql_keep_block *
block_new(struct ql_keep *keep, enum ql_keep_kind kind, uint64_t size)
{
    struct ql_keep_block *block = keep->spare;
    if (block == NULL || size != QL_KEEP_BLOCK) {
        block = block_map(size);
    } else {
        /* Its pages are there already. */
        keep->spare = NULL;
        memset(block->checked, 0, q_align_up(block->used, BYTES_OF_WORD) / BYTES_OF_BITS);
        block->used = 0;
        block->range_count = 0;
    }
    if (block != NULL) block->kind = kind;
    return block;
}

/* Data, bits and ranges are one piece of memory: pages that nobody touches cost nothing. */
static struct ql_keep_block *
block_map(uint64_t size)
{
    uint64_t bits = q_align_up(size, BYTES_OF_WORD) / BYTES_OF_BITS;
    uint64_t ranges = QL_KEEP_RANGES * sizeof(struct ql_kept);
    uint64_t mapped = size + bits + ranges + sizeof(struct ql_keep_block);
    uint8_t *data = mmap(NULL, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (data == MAP_FAILED) return NULL;
    struct ql_keep_block *block = (struct ql_keep_block *)(void *)(data + size + bits + ranges);
    *block = (struct ql_keep_block){
        .data = data,
        .size = size,
        .checked = (uint64_t *)(void *)(data + size),
        .ranges = (struct ql_kept *)(void *)(data + size + bits),
        .mapped = mapped,
    };
    return block;
}

static void
block_free(struct ql_keep_block *block)
{
    if (block != NULL) (void)munmap(block->data, block->mapped);
}

static bool
keep_list(struct ql_keep *keep, struct ql_kept *kept)
{
    if (keep->count == keep->capacity) {
        uint32_t capacity = keep->capacity == 0 ? QL_KEEP_RANGES : keep->capacity * 2;
        struct ql_kept **sorted = realloc(keep->sorted, capacity * sizeof(struct ql_kept *));
        if (sorted == NULL) return false;
        keep->sorted = sorted;
        keep->capacity = capacity;
    }
    uint32_t at = keep_behind(keep, kept->from);
    memmove(
        keep->sorted + at + 1, keep->sorted + at, (keep->count - at) * sizeof(struct ql_kept *));
    keep->sorted[at] = kept;
    keep->count++;
    kept->listed = true;
    return true;
}

/* The first range that begins behind `position`. */
static uint32_t
keep_behind(const struct ql_keep *keep, uint64_t position)
{
    uint32_t low = 0;
    uint32_t high = keep->count;
    /* What is added is most often the newest. */
    if (high > 0 && keep->sorted[high - 1]->from <= position) return high;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (keep->sorted[middle]->from <= position)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

struct ql_kept *
ql_keep_find(struct ql_keep *keep, uint64_t position, uint64_t size)
{
    return keep_find(keep, position, size, false);
}

struct ql_kept *
ql_keep_find_checked(struct ql_keep *keep, uint64_t position, uint64_t size)
{
    return keep_find(keep, position, size, true);
}

static struct ql_kept *
keep_find(struct ql_keep *keep, uint64_t position, uint64_t size, bool checked)
{
    struct ql_kept *found = keep->last;
    if (found == NULL || !kept_serves(found, position, size, checked)) {
        found = NULL;
        for (uint32_t at = keep_behind(keep, position); at > 0; at--) {
            struct ql_kept *kept = keep->sorted[at - 1];
            if (kept_serves(kept, position, size, checked)) {
                found = kept;
                break;
            }
            /* No range further back is long enough. */
            if (position - kept->from > keep->longest) break;
        }
    }
    if (found == NULL) return NULL;
    keep->last = found;
    found->block->stamp = ++keep->stamp;
    found->block->looked_ns = keep->now_ns;
    return found;
}

static bool
kept_serves(const struct ql_kept *kept, uint64_t position, uint64_t size, bool checked)
{
    bool holds =
        position >= kept->from && size <= kept->size && position - kept->from <= kept->size - size;
    if (!holds || !checked) return holds;
    return kept->filler == NULL && ql_kept_is_checked(kept, position);
}

void
ql_keep_forget(struct ql_keep *keep, struct ql_kept *kept)
{
    if (!kept->listed) return;
    kept->listed = false;
    if (keep->last == kept) keep->last = NULL;
    for (uint32_t i = 0; i < keep->count; i++) {
        if (keep->sorted[i] != kept) continue;
        keep->count--;
        memmove(
            keep->sorted + i, keep->sorted + i + 1, (keep->count - i) * sizeof(struct ql_kept *));
        return;
    }
}

void
ql_keep_shrink(struct ql_keep *keep, uint64_t before_ns)
{
    for (unsigned kind = 0; kind < QL_KEEP_KINDS; kind++) {
        struct ql_keep_block **at = &keep->blocks[kind];
        while (*at != NULL) {
            bool pinned = atomic_load_explicit(&(*at)->pins, memory_order_acquire) > 0;
            if (!pinned && (*at)->looked_ns < before_ns)
                keep_drop(keep, at);
            else
                at = &(*at)->next;
        }
    }
    if (keep->count > 0) return;
    block_free(keep->spare);
    keep->spare = NULL;
}

bool
ql_kept_is_checked(const struct ql_kept *kept, uint64_t position)
{
    if (kept->block->kind == QL_KEEP_TAIL) return true;
    uint64_t bit = (uint64_t)(ql_kept_at(kept, position) - kept->block->data) / BITS_OF_BYTE;
    return kept->block->checked[bit / BITS_OF_WORD] >> (bit % BITS_OF_WORD) & 1;
}

void
ql_kept_set_checked(struct ql_kept *kept, uint64_t position)
{
    uint64_t bit = (uint64_t)(ql_kept_at(kept, position) - kept->block->data) / BITS_OF_BYTE;
    kept->block->checked[bit / BITS_OF_WORD] |= (uint64_t)1 << (bit % BITS_OF_WORD);
}

void
ql_keep_pin(struct ql_keep_block *block)
{
    /* Only the owner pins, so nothing has to be ordered after it. */
    atomic_fetch_add_explicit(&block->pins, 1, memory_order_relaxed);
}

void
ql_keep_unpin(struct ql_keep_block *block)
{
    unsigned before = atomic_fetch_sub_explicit(&block->pins, 1, memory_order_release);
    Q_ASSERT(before > 0);
}
