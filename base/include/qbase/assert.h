/*
 * qbase/assert.h: assertions that stay on, in release builds too.
 *
 * They state what this program promises itself: arguments, states, invariants. Bytes that come
 * from a disk, a network or a user are verified, never asserted. A failed assertion prints
 * expression, file and line and aborts: the store's recovery is the safe way on.
 */
#ifndef QBASE_ASSERT_H
#define QBASE_ASSERT_H

#include <qbase/err.h>

Q_NORETURN void q_assert_failed(const char *expression, const char *file, int line);

#define Q_ASSERT(expression)                                                                       \
    do {                                                                                           \
        if (__builtin_expect(!(expression), 0)) q_assert_failed(#expression, __FILE__, __LINE__);  \
    } while (0)

/* For checks that cost more than a branch: on in debug builds (-Db_ndebug=false -Ddebug=true). */
#ifdef Q_DEBUG
#    define Q_DEBUG_ASSERT(expression) Q_ASSERT(expression)
#else
#    define Q_DEBUG_ASSERT(expression) ((void)sizeof(!(expression)))
#endif

#endif /* QBASE_ASSERT_H */
