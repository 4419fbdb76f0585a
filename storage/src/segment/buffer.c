#include "segment/buffer.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

#include <qbase/bytes.h>

#include "format/layout.h"

static enum q_err buffer_new(struct ql_env *env, size_t size, struct ql_buffer **ret_buffer);
static void buffer_free(struct ql_env *env, struct ql_buffer *buffer);
static size_t large_size(const struct ql_env *env);

enum q_err
ql_buffer_take(struct ql_env *env, size_t size, struct ql_buffer **ret_buffer)
{
    if (size > large_size(env)) return buffer_new(env, q_align_up(size, QL_BLOCK), ret_buffer);
    bool small = size <= QL_BUFFER_SMALL;
    struct ql_buffer **list = small ? &env->small_buffers : &env->large_buffers;
    if (*list == NULL)
        return buffer_new(env, small ? QL_BUFFER_SMALL : large_size(env), ret_buffer);
    *ret_buffer = *list;
    *list = (*list)->next;
    return Q_OK;
}

void
ql_buffer_give(struct ql_env *env, struct ql_buffer *buffer)
{
    if (buffer->size == QL_BUFFER_SMALL) {
        buffer->next = env->small_buffers;
        env->small_buffers = buffer;
    } else if (buffer->size == large_size(env)) {
        buffer->next = env->large_buffers;
        env->large_buffers = buffer;
    } else {
        buffer_free(env, buffer);
    }
}

void
ql_buffers_free(struct ql_env *env)
{
    struct ql_buffer **lists[] = { &env->small_buffers, &env->large_buffers };
    for (size_t i = 0; i < 2; i++) {
        while (*lists[i] != NULL) {
            struct ql_buffer *buffer = *lists[i];
            *lists[i] = buffer->next;
            buffer_free(env, buffer);
        }
    }
}

static size_t
large_size(const struct ql_env *env)
{
    return q_max_u64(
        q_align_up(env->frame_bytes_max, QL_BLOCK) + QL_BLOCK, 2 * (uint64_t)QL_BUFFER_SMALL);
}

static enum q_err
buffer_new(struct ql_env *env, size_t size, struct ql_buffer **ret_buffer)
{
    struct ql_buffer *buffer = calloc(1, sizeof(*buffer));
    if (buffer == NULL) return Q_FAIL(Q_E_NOMEM, .what = "frame buffer");
    void *data = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (data == MAP_FAILED) {
        free(buffer);
        return Q_FAIL(Q_E_NOMEM, .what = q_text("frame buffer of %zu bytes", size));
    }
    *buffer = (struct ql_buffer){ .data = data, .size = size, .index = -1 };
    env->buffer_bytes += size;
    if (size <= large_size(env) && !env->registration_refused &&
        env->registered_bytes + size <= QL_REGISTERED_MAX)
    {
        buffer->index = env->io->table->register_buffer(env->io, data, size);
        if (buffer->index >= 0) {
            env->registered_bytes += (uint32_t)size;
        } else {
            env->registration_refused = true;
            if (buffer->index != -EOPNOTSUPP)
                QL_TELL(env, BUFFERS_UNREGISTERED, .text = "frame buffers are not registered");
        }
    }
    *ret_buffer = buffer;
    return Q_OK;
}

static void
buffer_free(struct ql_env *env, struct ql_buffer *buffer)
{
    env->buffer_bytes -= buffer->size;
    (void)munmap(buffer->data, buffer->size);
    free(buffer);
}
