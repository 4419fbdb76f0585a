/*
 * interrupt.h: SIGINT and SIGTERM ask for an orderly end; the second one ends at once.
 */
#ifndef QMQ_TOOL_INTERRUPT_H
#define QMQ_TOOL_INTERRUPT_H

#include <stdbool.h>

/* Before any thread is made: no thread but ours gets the signals. */
void interrupt_block(void);
/*
 * A thread that waits for a signal and then calls `stop(context)`. The process ends by itself when
 * it is still there some seconds later, or at the second signal.
 */
void interrupt_watch(void (*stop)(void *context), void *context);
/* Have this thread's system calls end with EINTR instead. */
void interrupt_here(void);
/* The signal that came, or 0. */
int interrupt_signal(void);

#endif /* QMQ_TOOL_INTERRUPT_H */
