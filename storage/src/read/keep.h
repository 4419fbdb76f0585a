/*
 * read/keep.h: ranges of a log in memory: what was written lately, and what was read back.
 *
 * Blocks of 1 MiB hold ranges one behind the other; what is larger has a block of its own. There are
 * two kinds, each with a bound of its own, so that who reads old messages does not push out new ones.
 * A block is taken when the first range wants it, and given up as a whole: the one that was looked at
 * longest ago when another is wanted, and any that nobody looked at for a while.
 *
 *   ADDED (not ready) -> READY      by whoever fills it
 *   READY             -> FORGOTTEN  its bytes are wrong: found no more
 *   any               -> gone       with its block, when that has no pins
 *
 * A pinned block stays: the bound is exceeded by what others hold, and by one more range at most.
 *
 * Invariants: ranges are sorted by where they begin and may overlap; `last` is one of them, or NULL.
 *
 * Thread:   the store's, but ql_keep_unpin(): any.
 * Blocking: never.
 * Memory:   on demand up to the bounds; a bit for each 8 bytes tells what has been checked.
 */
#ifndef QL_READ_KEEP_H
#define QL_READ_KEEP_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

enum ql_keep_kind {
    QL_KEEP_TAIL,    /* written by this store: right as it is */
    QL_KEEP_FETCHED, /* read back: right where it was checked */
    QL_KEEP_KINDS
};

enum {
    QL_KEEP_BLOCK = 1024 * 1024,
    QL_KEEP_RANGES = 256 /* in one block */
};

struct ql_keep_block;

struct ql_kept {
    uint64_t from;
    uint64_t size;
    uint8_t *data;
    struct ql_keep_block *block;
    void *filler; /* who fills it; NULL: it is ready */
    bool listed;
};

struct ql_keep_block {
    atomic_uint pins;
    enum ql_keep_kind kind;
    uint8_t *data;
    uint64_t size;
    uint64_t used;
    uint64_t *checked;      /* a bit for each 8 bytes */
    struct ql_kept *ranges; /* room for QL_KEEP_RANGES */
    uint32_t range_count;
    uint64_t stamp; /* of the last look */
    uint64_t looked_ns;
    uint64_t mapped; /* bytes of memory, all in all */
    struct ql_keep_block *next;
};

struct ql_keep {
    struct ql_keep_block *blocks[QL_KEEP_KINDS]; /* the first is being filled */
    struct ql_keep_block *spare;                 /* given up, and not given back yet */
    uint64_t bytes[QL_KEEP_KINDS];
    uint64_t bytes_max[QL_KEEP_KINDS];
    struct ql_kept **sorted;
    uint32_t count;
    uint32_t capacity;
    uint64_t longest; /* of all that were ever there */
    struct ql_kept *last;
    uint64_t stamp;
    uint64_t now_ns; /* the owner's clock, told from time to time */
};

void ql_keep_init(struct ql_keep *keep, uint64_t tail_bytes, uint64_t fetched_bytes);
/* Nothing is pinned. */
void ql_keep_fini(struct ql_keep *keep);

/*
 * Room for [from, from + size), found from now on. `filler`: whoever makes it ready; NULL: the caller,
 * at once. `always`: above the bound if need be. NULL: no room now.
 */
struct ql_kept *ql_keep_add(
    struct ql_keep *keep,
    enum ql_keep_kind kind,
    uint64_t from,
    uint64_t size,
    void *filler,
    bool always);
/* A range that holds all of [position, position + size), ready or not; NULL: there is none. */
struct ql_kept *ql_keep_find(struct ql_keep *keep, uint64_t position, uint64_t size);
/* One where it is ready and was found right: of several that overlap not all may have been checked. */
struct ql_kept *ql_keep_find_checked(struct ql_keep *keep, uint64_t position, uint64_t size);
/* Its bytes are not what they should be: found no more. */
void ql_keep_forget(struct ql_keep *keep, struct ql_kept *kept);
/* Give up blocks that nobody looked at since `before_ns`. */
void ql_keep_shrink(struct ql_keep *keep, uint64_t before_ns);

/* The bytes at a position that lies in the range. */
static inline uint8_t *
ql_kept_at(const struct ql_kept *kept, uint64_t position)
{
    return kept->data + (position - kept->from);
}

/* Whether what begins at this position of the range is right. */
bool ql_kept_is_checked(const struct ql_kept *kept, uint64_t position);
void ql_kept_set_checked(struct ql_kept *kept, uint64_t position);

void ql_keep_pin(struct ql_keep_block *block);
void ql_keep_unpin(struct ql_keep_block *block);

#endif /* QL_READ_KEEP_H */
