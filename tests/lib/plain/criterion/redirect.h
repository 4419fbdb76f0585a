/*
 * criterion/redirect.h: where a test wants its stderr to be kept away. Here everything is shown.
 */
#ifndef TESTS_LIB_PLAIN_REDIRECT_H
#define TESTS_LIB_PLAIN_REDIRECT_H

static inline void
cr_redirect_stderr(void)
{
}

#endif /* TESTS_LIB_PLAIN_REDIRECT_H */
