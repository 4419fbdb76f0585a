/*
 * buffer.c: a buffer is an nng message, so that handing one to the transport or taking one from it
 * copies nothing.
 */
#include <qnet/buffer.h>

#include <qbase/assert.h>

#include "message.h"

enum q_err
qnet_buffer_new(size_t size, struct qnet_buffer **ret_buffer)
{
    nng_msg *message;
    if (nng_msg_alloc(&message, size) != 0) {
        return Q_FAIL(Q_E_NOMEM, .what = q_text("no memory for a message of %zu bytes", size));
    }
    *ret_buffer = qnet_message_buffer(message);
    return Q_OK;
}

void
qnet_buffer_free(struct qnet_buffer *buffer)
{
    nng_msg_free(qnet_buffer_message(buffer));
}

uint8_t *
qnet_buffer_data(struct qnet_buffer *buffer)
{
    return nng_msg_body(qnet_buffer_message(buffer));
}

size_t
qnet_buffer_size(const struct qnet_buffer *buffer)
{
    return nng_msg_len((const nng_msg *)buffer);
}

void
qnet_buffer_shrink(struct qnet_buffer *buffer, size_t size)
{
    nng_msg *message = qnet_buffer_message(buffer);
    size_t present = nng_msg_len(message);
    Q_ASSERT(size <= present);
    Q_ASSERT(nng_msg_chop(message, present - size) == 0);
}
