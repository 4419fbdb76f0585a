/*
 * Superblocks, segment headers and frame headers from a disk that lies. What is accepted must come
 * out of encode and decode as it went in.
 *
 * Input: the block, zeros behind it. A fuzzer can't guess hashes, so each input is tried as it is and
 * with magic and hash made right.
 */
#include <string.h>

#include <qbase/assert.h>
#include <qbase/bytes.h>

#include "format/block.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void try_super(const uint8_t block[QL_SUPER_SIZE]);
static void try_segment(const uint8_t block[QL_BLOCK]);
static void try_frame(const uint8_t header[QL_FRAME_HEADER_SIZE]);
static void mend(uint8_t *block, size_t size, uint32_t magic);

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static uint8_t block[QL_BLOCK];
    memset(block, 0, sizeof(block));
    memcpy(block, data, q_min_u64(size, sizeof(block)));
    try_super(block);
    try_segment(block);
    try_frame(block);
    mend(block, QL_SUPER_SIZE, QL_SUPER_MAGIC);
    try_super(block);
    mend(block, QL_BLOCK, QL_SEGMENT_MAGIC);
    try_segment(block);
    mend(block, QL_FRAME_HEADER_SIZE, QL_FRAME_MAGIC);
    try_frame(block);
    return 0;
}

/* Hash and magic are at the same place in all three. */
static void
mend(uint8_t *block, size_t size, uint32_t magic)
{
    q_store_le32(block + QL_FRAME_MAGIC_AT, magic);
    q_store_le64(block, ql_hash(block + 8, size - 8));
}

static void
try_super(const uint8_t block[QL_SUPER_SIZE])
{
    struct ql_super super;
    struct ql_super again;
    if (ql_super_decode(block, &super) != QL_BLOCK_GOOD) return;
    Q_ASSERT(super.log_count <= QL_LOGS_MAX);
    for (unsigned i = 0; i < super.log_count; i++)
        Q_ASSERT(memchr(super.logs[i].name, 0, QL_LOG_NAME_MAX) != NULL);
    uint8_t encoded[QL_SUPER_SIZE];
    ql_super_encode(&super, encoded);
    Q_ASSERT(ql_super_decode(encoded, &again) == QL_BLOCK_GOOD);
    Q_ASSERT(again.sequence == super.sequence);
    Q_ASSERT(again.generation == super.generation);
    Q_ASSERT(memcmp(again.logs, super.logs, sizeof(super.logs)) == 0);
}

static void
try_segment(const uint8_t block[QL_BLOCK])
{
    struct ql_segment_header header;
    struct ql_segment_header again;
    if (ql_segment_header_decode(block, &header) != QL_BLOCK_GOOD) return;
    Q_ASSERT(memchr(header.log_name, 0, QL_LOG_NAME_MAX) != NULL);
    Q_ASSERT((header.base | header.file_size) % QL_BLOCK == 0);
    uint8_t encoded[QL_BLOCK];
    ql_segment_header_encode(&header, encoded);
    Q_ASSERT(ql_segment_header_decode(encoded, &again) == QL_BLOCK_GOOD);
    Q_ASSERT(again.base == header.base);
    Q_ASSERT(again.file_size == header.file_size);
    Q_ASSERT(again.incarnation == header.incarnation);
    Q_ASSERT(memcmp(again.log_name, header.log_name, sizeof(header.log_name)) == 0);
}

static void
try_frame(const uint8_t header[QL_FRAME_HEADER_SIZE])
{
    struct ql_frame frame;
    struct ql_frame again;
    if (ql_frame_decode(header, &frame) != QL_BLOCK_GOOD) return;
    Q_ASSERT(frame.records_length <= frame.body_length);
    Q_ASSERT(
        ql_frame_size(frame.body_length) >= QL_FRAME_HEADER_SIZE + (uint64_t)frame.body_length);
    uint8_t encoded[QL_FRAME_HEADER_SIZE];
    ql_frame_encode(&frame, encoded);
    Q_ASSERT(ql_frame_decode(encoded, &again) == QL_BLOCK_GOOD);
    Q_ASSERT(again.position == frame.position);
    Q_ASSERT(again.body_length == frame.body_length);
    Q_ASSERT(again.hash == frame.hash);
}
