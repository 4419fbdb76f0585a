/*
 * qbase/bytes.h: little-endian loads and stores, checked sums, spans of bytes.
 *
 * Everything that reaches a disk or a wire goes through these functions. Addresses need no
 * alignment. Pure functions: any thread, never blocking, nothing allocated.
 */
#ifndef QBASE_BYTES_H
#define QBASE_BYTES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* A view of bytes that somebody else owns. */
struct q_bytes {
    const uint8_t *data;
    size_t size;
};

static inline struct q_bytes
q_bytes_from(const void *data, size_t size)
{
    struct q_bytes bytes = { (const uint8_t *)data, size }; /* C++ reads this, too */
    return bytes;
}

static inline struct q_bytes
q_bytes_from_text(const char *text)
{
    return q_bytes_from(text, strlen(text));
}

static inline bool
q_bytes_equal(struct q_bytes a, struct q_bytes b)
{
    return a.size == b.size && (a.size == 0 || memcmp(a.data, b.data, a.size) == 0);
}

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#    error "little-endian machines only: loads and stores below copy bytes as they are"
#endif

#define Q_BYTES_ACCESS(bits)                                                                       \
    static inline uint##bits##_t q_load_le##bits(const void *from)                                 \
    {                                                                                              \
        uint##bits##_t value;                                                                      \
        memcpy(&value, from, sizeof(value));                                                       \
        return value;                                                                              \
    }                                                                                              \
    static inline void q_store_le##bits(void *to, uint##bits##_t value)                            \
    {                                                                                              \
        memcpy(to, &value, sizeof(value));                                                         \
    }
Q_BYTES_ACCESS(16)
Q_BYTES_ACCESS(32)
Q_BYTES_ACCESS(64)
#undef Q_BYTES_ACCESS

/* True and `*ret_sum` set when the sum fits; false otherwise. */
static inline bool
q_add_u32(uint32_t a, uint32_t b, uint32_t *ret_sum)
{
    return !__builtin_add_overflow(a, b, ret_sum);
}

static inline bool
q_add_u64(uint64_t a, uint64_t b, uint64_t *ret_sum)
{
    return !__builtin_add_overflow(a, b, ret_sum);
}

static inline bool
q_mul_u64(uint64_t a, uint64_t b, uint64_t *ret_product)
{
    return !__builtin_mul_overflow(a, b, ret_product);
}

/* `value` rounded up to a multiple of `unit`, a power of two. The caller knows that it fits. */
static inline uint64_t
q_align_up(uint64_t value, uint64_t unit)
{
    return (value + unit - 1) & ~(unit - 1);
}

static inline uint64_t
q_min_u64(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static inline uint64_t
q_max_u64(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

static inline bool
q_is_zero(const void *data, size_t size)
{
    const uint8_t *at = (const uint8_t *)data;
    return size == 0 || (at[0] == 0 && memcmp(at, at + 1, size - 1) == 0);
}

#endif /* QBASE_BYTES_H */
