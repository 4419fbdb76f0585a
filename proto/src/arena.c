/*
 * arena.c: memory for unpacked headers: a fixed block first, chunks from malloc beyond it.
 *
 * protobuf-c allocates each field by itself and frees in the order it likes. Here an allocation is
 * a step forward and a free is nothing; everything goes at once when the arena is reset.
 */
#include <stdlib.h>

#include <qproto/message.h>

struct qproto_arena_chunk {
    struct qproto_arena_chunk *next;
    size_t used;
    size_t size;
    uint64_t space[];
};

enum {
    CHUNK_SIZE = 64 * 1024,
    ALIGNMENT = 8
};

static void *arena_alloc(void *context, size_t size);
static void *chunk_alloc(struct qproto_arena *arena, size_t size);
static void arena_free(void *context, void *memory);

void
qproto_arena_init(struct qproto_arena *arena)
{
    arena->allocator = (ProtobufCAllocator){
        .alloc = arena_alloc,
        .free = arena_free,
        .allocator_data = arena,
    };
    arena->used = 0;
    arena->spilled_bytes = 0;
    arena->spilled = NULL;
}

void
qproto_arena_reset(struct qproto_arena *arena)
{
    while (arena->spilled) {
        struct qproto_arena_chunk *next = arena->spilled->next;
        free(arena->spilled);
        arena->spilled = next;
    }
    arena->used = 0;
    arena->spilled_bytes = 0;
}

static void *
arena_alloc(void *context, size_t size)
{
    struct qproto_arena *arena = context;

    if (size > QPROTO_ARENA_MAX) return NULL;
    size = (size_t)q_align_up(size, ALIGNMENT);
    if (size > QPROTO_ARENA_SIZE - arena->used) return chunk_alloc(arena, size);

    void *memory = (uint8_t *)arena->space + arena->used;
    arena->used += size;
    return memory;
}

static void *
chunk_alloc(struct qproto_arena *arena, size_t size)
{
    if (size > QPROTO_ARENA_MAX - arena->spilled_bytes) return NULL;

    struct qproto_arena_chunk *chunk = arena->spilled;
    if (!chunk || size > chunk->size - chunk->used) {
        size_t chunk_size = size > CHUNK_SIZE ? size : CHUNK_SIZE;
        chunk = malloc(sizeof(*chunk) + chunk_size);
        if (!chunk) return NULL;
        *chunk = (struct qproto_arena_chunk){ .next = arena->spilled, .size = chunk_size };
        arena->spilled = chunk;
    }

    void *memory = (uint8_t *)chunk->space + chunk->used;
    chunk->used += size;
    arena->spilled_bytes += size;
    return memory;
}

static void
arena_free(void *context, void *memory)
{
    (void)context;
    (void)memory;
}
