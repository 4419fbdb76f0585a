/*
 * Loads, stores and sums that everything on disk and wire goes through.
 */
#include <criterion/criterion.h>

#include <qbase/bytes.h>

/* A number is stored with its least byte first, at any address, and comes back. */
Test(base_bytes, little_endian_at_odd_addresses)
{
    uint8_t bytes[16] = { 0 };
    q_store_le64(bytes + 1, UINT64_C(0x0807060504030201));
    for (uint8_t i = 0; i < 8; i++)
        cr_assert_eq(bytes[1 + i], i + 1);
    cr_assert_eq(q_load_le64(bytes + 1), UINT64_C(0x0807060504030201));
    cr_assert_eq(q_load_le32(bytes + 3), 0x06050403);
    cr_assert_eq(q_load_le16(bytes + 5), 0x0605);
}

/* A sum or product that does not fit is refused. */
Test(base_bytes, sums_say_no)
{
    uint32_t sum32 = 0;
    uint64_t sum64 = 0;
    cr_assert(q_add_u32(UINT32_MAX - 1, 1, &sum32));
    cr_assert_eq(sum32, UINT32_MAX);
    cr_assert_not(q_add_u32(UINT32_MAX, 1, &sum32));
    cr_assert(q_add_u64(UINT64_MAX - 1, 1, &sum64));
    cr_assert_not(q_add_u64(UINT64_MAX, 1, &sum64));
    cr_assert(q_mul_u64(UINT32_MAX, UINT32_MAX, &sum64));
    cr_assert_not(q_mul_u64(UINT64_C(1) << 32, UINT64_C(1) << 32, &sum64));
}

/* Rounding up leaves multiples alone. */
Test(base_bytes, align_up)
{
    cr_assert_eq(q_align_up(0, 8), 0);
    cr_assert_eq(q_align_up(1, 8), 8);
    cr_assert_eq(q_align_up(8, 8), 8);
    cr_assert_eq(q_align_up(4097, 4096), 8192);
}

/* Equality looks at size and bytes; empty spans are equal wherever they point. */
Test(base_bytes, equality)
{
    cr_assert(q_bytes_equal(q_bytes_from_text("abc"), q_bytes_from("abcd", 3)));
    cr_assert_not(q_bytes_equal(q_bytes_from_text("abc"), q_bytes_from_text("abd")));
    cr_assert_not(q_bytes_equal(q_bytes_from_text("abc"), q_bytes_from_text("ab")));
    cr_assert(q_bytes_equal(q_bytes_from(NULL, 0), q_bytes_from_text("")));
}

/* One byte that is not zero is seen at any place, and no bytes are zero. */
Test(base_bytes, is_zero)
{
    uint8_t bytes[67] = { 0 };
    cr_assert(q_is_zero(bytes, sizeof(bytes)));
    cr_assert(q_is_zero(NULL, 0));
    for (size_t i = 0; i < sizeof(bytes); i++) {
        bytes[i] = 1;
        cr_assert_not(q_is_zero(bytes, sizeof(bytes)));
        bytes[i] = 0;
    }
}
