/*
 * option_list.h: the options of each struct of qmq.h that can be set by name. One list makes the parser
 * and docs/options.md (scripts/options-page).
 *
 *     X(kind, field, default, meaning)
 *
 * Kinds: TEXT, FLAG, NUMBER (uint32_t), NUMBER64, SIZE (uint32_t), SIZE64, and enums by the name of their
 * list of words. What is an array (tags) can't be set by name.
 */
#ifndef QMQ_SRC_OPTION_LIST_H
#define QMQ_SRC_OPTION_LIST_H

#define CLIENT_OPTIONS(X)                                                                          \
    X(TEXT, meta, "tcp://127.0.0.1:20880", "where meta is")                                        \
    X(TEXT, program, "libqmq", "who calls, for people who look at a server")                       \
    X(NUMBER, timeout_ms, "10000", "of connecting, joining, leaving, acknowledging")

#define PRODUCER_OPTIONS(X)                                                                        \
    X(MODE, mode, "default", "durability that an outcome waits for: default, async, sync")         \
    X(DUPLICATES, duplicates, "maybe",                                                             \
      "a message whose answer was lost, while its broker group stays away: maybe, never")          \
    X(NUMBER, unknown_ms, "2000", "how long its broker group may stay away then")                  \
    X(FLAG, compress, "false", "LZ4, when it saves at least an eighth")                            \
    X(NUMBER, batch_messages_max, "512", "messages in a batch")                                    \
    X(SIZE, batch_bytes_max, "64KiB", "bytes in a batch; a larger message has one of its own")     \
    X(SIZE64, memory_bytes_max, "32MiB", "of messages without an outcome; a batch counts 10 KiB")  \
    X(NUMBER, block_ms, "10000",                                                                   \
      "how long a send waits for memory, or for a route; one way it does not unless told")         \
    X(NUMBER, deadline_ms, "30000", "how long a message is tried")                                 \
    X(FLAG, foreign_loop, "false", "callbacks run in qmq_producer_dispatch() alone")               \
    X(FLAG, one_way, "false",                                                                      \
      "for what may be lost: nothing is sent twice, and a send that can't be taken is dropped")    \
    X(NUMBER, queue_messages_max, "0",                                                             \
      "messages without an outcome; 0: as many as the memory takes")

#define CONSUMER_OPTIONS(X)                                                                        \
    X(TEXT, subject, "", "what to consume")                                                        \
    X(TEXT, group, "", "who shares the progress; none with broadcast")                             \
    X(TEXT, consumer, "", "stable id of this process within the group; a random one")              \
    X(FLAG, broadcast, "false", "every consumer gets every message")                               \
    X(FLAG, tags_all, "false", "a message needs all of the tags instead of any")                   \
    X(START, start, "default",                                                                     \
      "of a new group: default (earliest; latest with broadcast), earliest, latest, time, "        \
      "sequence")                                                                                  \
    X(NUMBER64, start_at, "0", "ms since 1970, or a sequence, as `start` says")                    \
    X(TEXT, broker_group, "", "only of this one; of all")                                          \
    X(FLAG, at_most_once, "false", "handed out once, without acknowledgements")                    \
    X(FLAG, no_prefetch, "false", "don't fetch while messages are worked on")                      \
    X(SIZE, pull_bytes_max, "256KiB", "of one pull")                                               \
    X(NUMBER, pull_messages_min, "1", "wait for so many, as long as a pull waits")                 \
    X(NUMBER, invisible_ms, "0", "unacknowledged for so long, a message goes to others; 0: never")

/* What it consumes is a consumer's options. */
#define PUSH_OPTIONS(X)                                                                            \
    X(NUMBER, threads, "1", "how many handlers run at the same time")                              \
    X(NUMBER, prefetch_messages, "2000", "messages held at most, fetched and not acknowledged")    \
    X(SIZE64, prefetch_bytes, "8MiB", "the same in bytes of memory")                               \
    X(FLAG, is_paused, "false", "handles nothing before it is told to")

#define READER_OPTIONS(X)                                                                          \
    X(TEXT, subject, "", "what to read")                                                           \
    X(START, start, "default", "default (earliest), earliest, latest, time, sequence")             \
    X(NUMBER64, start_at, "0", "ms since 1970, or a sequence, as `start` says")                    \
    X(TEXT, broker_group, "", "only of this one; of all")                                          \
    X(FLAG, tags_all, "false", "a message needs all of the tags instead of any")

#endif /* QMQ_SRC_OPTION_LIST_H */
