/*
 * fake_node.h: meta and one broker group in a few lines, for tests of the client.
 *
 * It keeps batches of one subject in memory and knows one group with one consumer, whose pull
 * sequences are the sequences. At most once it hands out each message once. It can be told to
 * misbehave, and be killed and started again with what it had.
 */
#ifndef TEST_FAKE_NODE_H
#define TEST_FAKE_NODE_H

#include <qbatch/batch.h>
#include <qmq/qmq.h>
#include <qnet/server.h>
#include <qproto/message.h>

#define FAKE_SUBJECT "order.paid"

struct fake_node;

/* Listens on an inproc url of this name; its broker group has it, too. */
struct fake_node *fake_new(const char *name);
void fake_free(struct fake_node *fake);
const char *fake_url(const struct fake_node *fake);

void fake_kill(struct fake_node *fake);
void fake_start(struct fake_node *fake);

/* Answer the next `times` calls of this operation with this error. */
void fake_refuse(struct fake_node *fake, unsigned op, enum q_err err, unsigned times);
/* Answer the next publish of more than one batch with this error, in its turn. */
void fake_refuse_many(struct fake_node *fake, enum q_err err);
/* Do what the next publish asks, then die instead of answering; come back after `away_ms`. */
void fake_lose_answer(struct fake_node *fake, unsigned away_ms);
/* Come back now. */
void fake_end_death(struct fake_node *fake);
/* Hold publishes back until fake_release(). */
void fake_hold(struct fake_node *fake);
void fake_release(struct fake_node *fake);
/* Let through what is held, and go on holding. */
void fake_let_through(struct fake_node *fake);
/* Forget all producers, so that a publish that is sent again gets UNKNOWN_PRODUCER. */
void fake_forget_producers(struct fake_node *fake);
/* Answer UNKNOWN_PRODUCER to whatever is stored already. */
void fake_mislay(struct fake_node *fake);
/* Forget the session: the next pull or ack gets NO_SESSION. */
void fake_forget_session(struct fake_node *fake);
/* Change a byte of every payload that is handed out. */
void fake_damage(struct fake_node *fake, bool damage);
/* List this other node's broker group, too, before its own when `is_first`. */
void fake_list(struct fake_node *fake, const struct fake_node *other, bool is_first);
/* Where the slots of order keys are at home, in equal parts; at its own unless told. */
void fake_set_homes(struct fake_node *fake, const char *const *names, unsigned count);
/* Its own broker group is listed or not. */
void fake_set_listed(struct fake_node *fake, bool is_listed);

uint64_t fake_message_count(struct fake_node *fake);
uint64_t fake_acked_count(struct fake_node *fake);
/* Messages of negative acks; they stay where they are. */
uint64_t fake_nacked_count(struct fake_node *fake);
uint64_t fake_batch_count(struct fake_node *fake);
uint64_t fake_publish_count(struct fake_node *fake); /* calls */
uint64_t fake_join_count(struct fake_node *fake);
bool fake_has_left(struct fake_node *fake);
/* Body of a stored message, copied as text. */
void fake_body(struct fake_node *fake, uint64_t sequence, char *out, size_t out_size);
/* Put messages with these bodies into the store, one batch. */
void fake_store(struct fake_node *fake, const char *const *bodies, unsigned count, bool compress);

#endif /* TEST_FAKE_NODE_H */
