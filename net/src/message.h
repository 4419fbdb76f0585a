/*
 * message.h: the two names of one thing. A qnet_buffer is never anything but an nng message.
 */
#ifndef QNET_SRC_MESSAGE_H
#define QNET_SRC_MESSAGE_H

#include <nng/nng.h>

struct qnet_buffer;

static inline nng_msg *
qnet_buffer_message(struct qnet_buffer *buffer)
{
    return (nng_msg *)buffer;
}

static inline struct qnet_buffer *
qnet_message_buffer(nng_msg *message)
{
    return (struct qnet_buffer *)message;
}

#endif /* QNET_SRC_MESSAGE_H */
