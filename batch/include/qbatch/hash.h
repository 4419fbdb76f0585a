/*
 * qbatch/hash.h: the one hash of the format, XXH3-64 without a seed.
 *
 * Short inputs are hashed inline, where a call would cost as much as the hash. For long ones the
 * library has code for this processor's widest vectors, two to three times as fast as what the
 * baseline instruction set allows here. The value is the same.
 */
#ifndef QBATCH_HASH_H
#define QBATCH_HASH_H

#if defined(__x86_64__)
#    define XXH_DISPATCH_DISABLE_REPLACE
#    include <xxh_x86dispatch.h>
#endif

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <qbase/bytes.h>

/* XXH3 changes its way at 240 bytes; only above it vectors are used. */
enum {
    QBATCH_HASH_SHORT_MAX = 240
};

static inline uint64_t
qbatch_hash(struct q_bytes bytes)
{
#if defined(__x86_64__)
    if (bytes.size > QBATCH_HASH_SHORT_MAX) return XXH3_64bits_dispatch(bytes.data, bytes.size);
#endif
    return XXH3_64bits(bytes.data, bytes.size);
}

#endif /* QBATCH_HASH_H */
