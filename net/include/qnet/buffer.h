/*
 * qnet/buffer.h: the memory of one message on the wire.
 *
 * A buffer is built in place, then handed over whole: whoever sends it gives it away. A received
 * buffer belongs to the receiver. It may be turned into the answer.
 *
 * Thread:   one at a time; may be handed from thread to thread.
 * Blocking: never.
 * Memory:   one block of exact size. Never append piece by piece: ask for the full size, write,
 *           then shrink.
 */
#ifndef QNET_BUFFER_H
#define QNET_BUFFER_H

#include <qbase/bytes.h>
#include <qbase/err.h>

struct qnet_buffer;

/* Zeroed memory of `size` bytes. Q_E_NOMEM. */
Q_MUST_CHECK enum q_err qnet_buffer_new(size_t size, struct qnet_buffer **ret_buffer);
/* NULL is fine. */
void qnet_buffer_free(struct qnet_buffer *buffer);
uint8_t *qnet_buffer_data(struct qnet_buffer *buffer);
size_t qnet_buffer_size(const struct qnet_buffer *buffer);
/* Cut the end; `size` is at most the present one. */
void qnet_buffer_shrink(struct qnet_buffer *buffer, size_t size);

#endif /* QNET_BUFFER_H */
