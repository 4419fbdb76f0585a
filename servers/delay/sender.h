/*
 * delay/sender.h: requests of a delay store to broker groups, and where those are.
 *
 * A thread of its own asks meta for the routes of subjects that the store asks for, and where broker
 * groups are; while meta is away what it said last counts. Requests go out over a connection for each
 * group. One that has no address, or whose connection is lost, gets its requests back at once.
 *
 * Thread:   delay_sender_table()'s functions: the store's. The rest: the role's starter.
 * Blocking: new, stop and free; the table's functions never.
 */
#ifndef DELAY_SENDER_H
#define DELAY_SENDER_H

#include <qlog/delay.h>

struct delay_sender;

Q_MUST_CHECK enum q_err delay_sender_new(const char *meta_url, struct delay_sender **ret_sender);
/* What the store is to call. It is opened with this, then told here, then run. */
struct qlog_delay_sender delay_sender_table(struct delay_sender *sender);
void delay_sender_attach(struct delay_sender *sender, struct qlog_delay *store);
/* Every request has been given back, and none is taken any more. Before the store is closed. */
void delay_sender_stop(struct delay_sender *sender);
/* Stopped, or never attached. NULL is fine. */
void delay_sender_free(struct delay_sender *sender);

#endif /* DELAY_SENDER_H */
