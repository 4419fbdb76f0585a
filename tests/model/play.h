/*
 * play.h: operations, drawn at random, and played to the machine and the model at once.
 *
 * An operation names things by number, and modulo what there is: whatever others are taken away before
 * it, it still means something. So a sequence that fails can be made shorter by dropping operations.
 *
 * Thread: one.
 */
#ifndef TESTS_MODEL_PLAY_H
#define TESTS_MODEL_PLAY_H

#include <stdbool.h>
#include <stdio.h>

#include "random.h"

/* X(NAME, how often, what its numbers are) */
#define PLAY_LIST(X)                                                                               \
    X(publish, 22, "messages, seed of tags and keys")                                              \
    X(join, 10, "group, client, filter, start, settings, same token")                              \
    X(leave, 3, "group, client")                                                                   \
    X(keep, 4, "group, client")                                                                    \
    X(pull, 30, "group, client, most, received, invisible, once")                                  \
    X(wait, 6, "group, client, most, received, invisible, seconds")                                \
    X(ack, 26, "group, client, from, length, from, length")                                        \
    X(nack, 9, "group, client, from, length, delay, error")                                        \
    X(time, 14, "milliseconds")                                                                    \
    X(long_time, 1, "minutes")                                                                     \
    X(days, 1, "two hours each")                                                                   \
    X(seek, 2, "group, start, at")                                                                 \
    X(skip, 2, "group, from the cursor back, length")                                              \
    X(resend, 2, "group, from the cursor back, length")                                            \
    X(pause, 1, "group")                                                                           \
    X(resume, 2, "group")                                                                          \
    X(settings, 2, "group, settings")                                                              \
    X(remove, 1, "group")                                                                          \
    X(trim, 1, "")                                                                                 \
    X(kill, 2, "")                                                                                 \
    X(power, 3, "")                                                                                \
    X(restart, 2, "")

enum play_kind {
#define PLAY_ENUM(name, often, what) PLAY_##name,
    PLAY_LIST(PLAY_ENUM)
#undef PLAY_ENUM
    PLAY_KINDS
};

enum {
    PLAY_NUMBERS = 6,
    PLAY_TEXT_MAX = 512
};

struct play_op {
    enum play_kind kind;
    uint32_t numbers[PLAY_NUMBERS];
};

struct play_op play_random(struct random_source *random);
/* False: it is none. */
bool play_parse(const char *line, struct play_op *ret_op);
void play_print(FILE *out, const struct play_op *op);

/*
 * Play them from the beginning. -1: there is no difference; else the number of the operation after
 * which there was one, and `text` tells which. `told`: each operation and its outcome is printed.
 */
struct ramdisk;
int play(
    struct ramdisk *disk,
    const struct play_op *ops,
    unsigned count,
    FILE *told,
    char text[PLAY_TEXT_MAX]);

#endif /* TESTS_MODEL_PLAY_H */
