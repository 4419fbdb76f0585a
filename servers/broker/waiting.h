/*
 * broker/waiting.h: pulls that may wait in the store, by connection.
 *
 * A pull whose connection is gone would be handed messages that nobody gets. So each pull that may
 * wait is entered here before it is submitted; when its connection goes, a cancel follows it into
 * the store.
 *
 *   gone, or stop     marks the pull `cancelled` and posts its cancel to the answer thread
 *   ANSWER, cancel    submits qlog_cancel; nothing is left to do when the pull is already finished
 *   STORE             the pull ends, then the cancel does; both go to the answer thread
 *   ANSWER, finish    takes the pull out; gives it back now, or leaves that to the cancel
 *
 * A cancelled pull is thus given back by whichever of finish and cancel comes last, and both are
 * on one thread.
 */
#ifndef BROKER_WAITING_H
#define BROKER_WAITING_H

#include "broker/request.h"

void broker_waiting_init(struct broker *broker);
void broker_waiting_fini(struct broker *broker);

/* NET: before the submit. */
void broker_waiting_enter(struct broker_request *request);
/* NET (not submitted) or ANSWER. True when a cancel is on its way. Fine for one never entered. */
bool broker_waiting_leave(struct broker_request *request);

/* A connection is gone: end its waiting pulls. */
void broker_on_gone(void *context, uint64_t connection);
/* End all waiting pulls. */
void broker_waiting_end_all(struct broker *broker);

#endif /* BROKER_WAITING_H */
