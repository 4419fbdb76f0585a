/*
 * delay_publish.h: producers of a delay store on a simulated disk. They number their requests, and send
 * one again that has no answer, or for no reason at all: it is stored once, and has the same handles.
 */
#ifndef TESTS_CRASH_DELAY_PUBLISH_H
#define TESTS_CRASH_DELAY_PUBLISH_H

#include "delay_client.h"

/* Some messages, in one new request or two; and perhaps one again that was sent before. */
void delay_publish(struct delay_client *client);
/* After a start: each request without an answer, once more. */
void delay_publish_again(struct delay_client *client);
/* Some time: past, close, or in days. */
uint64_t delay_random_due(struct delay_client *client);
struct delay_item *delay_history_add_item(struct delay_history *history);

/* What a producer knows at a moment. */
void delay_requests_cut(struct delay_history *cut, const struct delay_history *whole, uint64_t at);
void delay_requests_free(struct delay_history *history);

#endif /* TESTS_CRASH_DELAY_PUBLISH_H */
