/*
 * qlog/guard.h: read mapped files from a disk that may fail.
 *
 * Where a page of a mapped file can't be had (a bad sector, a file that was cut), the kernel does
 * not answer with an error: it sends SIGBUS, which ends the process. What reads pieces of a pull
 * does so under a guard, and gets an error for that range instead.
 *
 * Thread:   any; guards of different threads know nothing of each other, and may be nested.
 * Blocking: as what is read.
 * Signals:  the first guard installs a handler of SIGBUS for the process. Signals that no guard is
 *           to blame for go to the handler that was there before, or end the process as ever.
 */
#ifndef QLOG_GUARD_H
#define QLOG_GUARD_H

#include <stddef.h>

#include <qlog/types.h>

#ifdef __cplusplus
extern "C" {
#endif

/*
 * Call `read`. Its answer, or Q_E_IO when a page could not be had: then `read` was left where it
 * stood, so it must hold no lock and no memory of its own.
 */
Q_EXPORT Q_MUST_CHECK enum q_err qlog_guard(enum q_err (*read)(void *context), void *context);
/* memcpy() under a guard. Q_OK or Q_E_IO. */
Q_EXPORT Q_MUST_CHECK enum q_err qlog_guard_copy(void *to, const void *from, size_t size);

#ifdef __cplusplus
}
#endif

#endif /* QLOG_GUARD_H */
