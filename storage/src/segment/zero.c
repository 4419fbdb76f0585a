#include "segment/zero.h"

#include <sys/mman.h>

#include <qbase/bytes.h>

#include "planted.h"

enum {
    CHUNK_BYTES = 1024 * 1024,
    PAUSE_NS = 5 * Q_NS_PER_MS, /* 200 MB/s */
    /* When the writer has caught up, zeros go on this far ahead of it. */
    LEAD_BYTES = 16 * 1024 * 1024,
};

static const uint8_t *zero_bytes(struct ql_env *env);
static void zero_on_done(struct ql_transfer *transfer);

void
ql_zero_step(
    struct ql_zero *zero,
    struct ql_env *env,
    struct ql_segment *active,
    struct ql_segment *spare,
    uint64_t tail,
    uint64_t now_ns)
{
    if (zero->segment != NULL || now_ns < zero->next_ns || env->broken != Q_OK) return;
    if (active != NULL) {
        uint64_t tail_offset = ql_segment_offset(active, tail);
        if (active->zeroed < tail_offset) active->zeroed = tail_offset;
    }
    struct ql_segment *segment = NULL;
    if (active != NULL && active->zeroed < active->file_size)
        segment = active;
    else if (spare != NULL && spare->zeroed < spare->file_size)
        segment = spare;
    const uint8_t *zeros = zero_bytes(env);
    if (segment == NULL || zeros == NULL) return;
    uint64_t size = q_min_u64(CHUNK_BYTES, segment->file_size - segment->zeroed);
    zero->segment = segment;
    zero->next_ns = now_ns + PAUSE_NS;
    zero->write = (struct ql_transfer){
        .op = {
            .kind = QLOG_IO_WRITE,
            .file = segment->file,
            .buffer = -1,
            .data = (void *)(uintptr_t)zeros,
            .length = (uint32_t)size,
            .at = segment->zeroed,
        },
        .done = zero_on_done,
    };
    ql_transfer_submit(env->io, &zero->write);
}

static void
zero_on_done(struct ql_transfer *transfer)
{
    struct ql_zero *zero = q_container_of(transfer, struct ql_zero, write);
    struct ql_segment *segment = zero->segment;
    zero->segment = NULL;
    /* A place that takes no zeros will say so again when a frame comes; that is when it matters. */
    uint64_t end = transfer->at + transfer->length;
    if (transfer->error != 0) end = segment->file_size;
    if (segment->zeroed < end) segment->zeroed = end;
}

bool
ql_zero_blocks(struct ql_zero *zero, const struct ql_segment *segment, uint64_t end)
{
    if (zero->segment != segment || end <= zero->write.at) return false;
    if (QL_PLANTED(zero_over_frame)) return false;
    /* Caught up. Leave it a stretch of its own, so that they don't run side by side. */
    uint64_t lead = q_min_u64(end + LEAD_BYTES, segment->file_size);
    if (zero->segment->zeroed < lead) zero->segment->zeroed = lead;
    return true;
}

uint64_t
ql_zero_deadline_ns(
    const struct ql_zero *zero, const struct ql_segment *active, const struct ql_segment *spare)
{
    if (zero->segment != NULL) return UINT64_MAX;
    bool wanted = (active != NULL && active->zeroed < active->file_size) ||
                  (spare != NULL && spare->zeroed < spare->file_size);
    return wanted ? zero->next_ns : UINT64_MAX;
}

void
ql_zero_head(struct ql_env *env, struct ql_segment *segment, uint64_t size)
{
    const uint8_t *zeros = zero_bytes(env);
    uint64_t end = q_min_u64(segment->zeroed + size, segment->file_size);
    while (zeros != NULL && segment->zeroed < end) {
        struct ql_transfer write = {
            .op = {
                .kind = QLOG_IO_WRITE,
                .file = segment->file,
                .buffer = -1,
                .data = (void *)(uintptr_t)zeros,
                .length = (uint32_t)q_min_u64(CHUNK_BYTES, end - segment->zeroed),
                .at = segment->zeroed,
            },
        };
        if (ql_transfer_wait(env->io, &write) != 0) return;
        segment->zeroed += write.length;
    }
}

/* Pages that nobody ever wrote: they all are the kernel's one page of zeros, and cost nothing. */
static const uint8_t *
zero_bytes(struct ql_env *env)
{
    if (env->zeros != NULL) return env->zeros;
    void *data = mmap(NULL, CHUNK_BYTES, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (data != MAP_FAILED) env->zeros = data;
    return env->zeros;
}

void
ql_zeros_free(struct ql_env *env)
{
    if (env->zeros != NULL) (void)munmap((void *)(uintptr_t)env->zeros, CHUNK_BYTES);
    env->zeros = NULL;
}
