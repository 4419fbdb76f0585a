/*
 * common/answer.h: end a call with an answer or an error.
 *
 * Thread:   any.
 * Blocking: never.
 * Memory:   the call is over afterwards, whatever happened; without memory for an answer it is
 *           dropped, and its caller sees a time-out.
 */
#ifndef SRV_COMMON_ANSWER_H
#define SRV_COMMON_ANSWER_H

#include <qnet/server.h>
#include <qproto/message.h>

void srv_answer(struct qnet_call *call, unsigned op, const ProtobufCMessage *header);
/* The Error object of `err`. Uses up this thread's fault when it tells of the same error. */
void srv_answer_error(struct qnet_call *call, unsigned op, enum q_err err);
/* The same in two steps, for answers that another thread sends. Q_E_NOMEM. */
Q_MUST_CHECK enum q_err srv_build_error(
    unsigned op, enum q_err err, struct qnet_buffer **ret_answer);

#endif /* SRV_COMMON_ANSWER_H */
