/* The first program of a container's process: it executes the command, and reports the answer of execve(2).
 *
 *   first FLAGS COMMAND [ARGUMENT...]
 *
 * FLAGS are letters, four of them with the number of a descriptor (of one digit, but for `c`):
 *   x3  the descriptor that this program was executed by: closed
 *   w4  an O_PATH descriptor of a FIFO: opened for writing. Its reader sees the end when the command has been executed,
 *       or cannot be: the runtime and the monitor also hold w4, and would keep a pipe open.
 *   r5  where the record is written: "r\n" before execve; then, if the kernel refuses, "xERRNO FOUND\n" (FOUND is 1 if
 *       there is something at the command's path), "fERRNO\n" if no process could be made for the command, or
 *       "cERRNO\n" if a cgroup could not be entered
 *   c6  (any number of them) the `tasks` file of a cgroup of version 1, open for writing: this process enters it, and
 *       does not execute the command if it cannot. After `r`, if there is one
 *   i   stay as an init: run the command as a child, in the foreground of the terminal; pass on signals; reap
 *
 * None of these descriptors reaches the command. The engine makes the file of this program unreadable, so the kernel
 * lets no process without CAP_DAC_OVERRIDE trace it or open its descriptors, from the first instruction on.
 *
 * It uses no C library, so that it is small, starts fast, and needs only /proc from the container's root.
 */
#include <asm/unistd.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/prctl.h>

#define SIGTRAP 5
#define SIGCHLD 17
#define LAST_SIGNAL 64
#define SIG_BLOCK 0
#define SIG_SETMASK 2
#define SA_RESTORER 0x04000000
#define SA_RESTART 0x10000000
#define TIOCSPGRP 0x5410
#define PTRACE_DETACH 17
#define STOPPED 0x7f
#define MASK_SIZE 8
#define PATH_SIZE 4096
#define NO_COMMAND 127
#define NOT_EXECUTABLE 126
#define USUAL_PATH "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

typedef unsigned long mask;

#if defined(__x86_64__)
__asm__("give_back:\n\tmov $15, %eax\n\tsyscall\n"); /* rt_sigreturn(2) */
__asm__(".globl _start\n_start:\n\txor %ebp, %ebp\n\tmov %rsp, %rdi\n\tand $-16, %rsp\n\tcall begin\n");

static long call(long number, long a, long b, long c, long d, long e)
{
	long result;
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;

	__asm__ volatile("syscall"
			 : "=a"(result)
			 : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8)
			 : "rcx", "r11", "memory");
	return result;
}
#elif defined(__aarch64__)
__asm__("give_back:\n\tmov x8, #139\n\tsvc 0\n"); /* rt_sigreturn(2) */
__asm__(".globl _start\n_start:\n\tmov x29, #0\n\tmov x30, #0\n\tmov x0, sp\n\tbl begin\n");

static long call(long number, long a, long b, long c, long d, long e)
{
	register long x8 __asm__("x8") = number;
	register long x0 __asm__("x0") = a;
	register long x1 __asm__("x1") = b;
	register long x2 __asm__("x2") = c;
	register long x3 __asm__("x3") = d;
	register long x4 __asm__("x4") = e;

	__asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4) : "memory");
	return x0;
}
#else
#error "no system calls are known for this processor"
#endif

struct action { /* as the kernel has it */
	void (*handler)(int);
	unsigned long flags;
	void (*restorer)(void);
	mask blocked;
};

extern void give_back(void);

static int wake = -1, record = -1;
static long child;

struct refusal {
	int error;
	int found;
};

static unsigned long length(const char *text)
{
	unsigned long count = 0;

	while (text[count])
		count++;
	return count;
}

static char *put_number(char *at, unsigned int number)
{
	if (number >= 10)
		at = put_number(at, number / 10);
	*at++ = '0' + number % 10;
	return at;
}

static void say(char kind, unsigned int error, int found)
{
	char text[24], *at = text;

	*at++ = kind;
	if (kind != 'r')
		at = put_number(at, error);
	if (kind == 'x') {
		*at++ = ' ';
		*at++ = '0' + found;
	}
	*at++ = '\n';
	if (record >= 0)
		call(__NR_write, record, (long)text, at - text, 0, 0);
}

static void quit(int code) __attribute__((noreturn));
static void quit(int code)
{
	for (;;)
		call(__NR_exit_group, code, 0, 0, 0, 0);
}

static struct refusal try(const char *path, char **argv, char **envp)
{
	struct refusal refused;

	refused.error = -call(__NR_execve, (long)path, (long)argv, (long)envp, 0, 0);
	refused.found = call(__NR_faccessat, AT_FDCWD, (long)path, 0, 0, 0) == 0;
	return refused;
}

/* As execvp(3), except that an empty element of PATH is not the working directory. */
static struct refusal execute(char **argv, char **envp)
{
	static char path[PATH_SIZE];
	struct refusal refused = {ENOENT, 0}, each;
	const char *name = argv[0], *folders = USUAL_PATH, *at;
	unsigned long size = length(name), count, index;

	for (at = name; *at; at++)
		if (*at == '/')
			return try(name, argv, envp);
	if (size == 0)
		return refused;
	for (index = 0; envp[index]; index++) {
		at = envp[index];
		if (at[0] == 'P' && at[1] == 'A' && at[2] == 'T' && at[3] == 'H' && at[4] == '=') {
			folders = at + 5;
			break;
		}
	}
	while (*folders) {
		for (count = 0; folders[count] && folders[count] != ':'; count++)
			;
		if (count && count + size + 2 <= PATH_SIZE) {
			for (index = 0; index < count; index++)
				path[index] = folders[index];
			path[count] = '/';
			for (index = 0; index <= size; index++)
				path[count + 1 + index] = name[index];
			each = try(path, argv, envp);
			switch (each.error) {
			case EACCES:
			case ELOOP:
			case ENAMETOOLONG:
			case ENOENT:
			case ENOTDIR:
			case ESTALE:
				if (each.found && !refused.found)
					refused = each;
				break;
			default:
				return each;
			}
		}
		folders += count;
		if (*folders == ':')
			folders++;
	}
	return refused;
}

static void report(struct refusal refused) __attribute__((noreturn));
static void report(struct refusal refused)
{
	say('x', refused.error, refused.found);
	quit(refused.error == ENOENT && !refused.found ? NO_COMMAND : NOT_EXECUTABLE);
}

static void fail_to_fork(long result) __attribute__((noreturn));
static void fail_to_fork(long result)
{
	say('f', -result, 0);
	quit(NOT_EXECUTABLE);
}

/* A process that moves itself, while it has one thread, does not wait for the kernel's lock on all of them. */
static void enter(int tasks)
{
	long result = call(__NR_write, tasks, (long)"0", 1, 0, 0);

	call(__NR_close, tasks, 0, 0, 0, 0);
	if (result != 1) {
		say('r', 0, 0);
		say('c', -result, 0);
		quit(NOT_EXECUTABLE);
	}
}

/* In the child of an init: a process group of its own, in the foreground if there is a terminal; nothing blocked. */
static void become(char **argv, char **envp, int report_to) __attribute__((noreturn));
static void become(char **argv, char **envp, int report_to)
{
	struct refusal refused;
	mask none = 0;
	int group = call(__NR_getpid, 0, 0, 0, 0, 0);

	call(__NR_setpgid, 0, 0, 0, 0, 0);
	call(__NR_ioctl, 0, TIOCSPGRP, (long)&group, 0, 0); /* SIGTTOU is blocked still */
	call(__NR_rt_sigprocmask, SIG_SETMASK, (long)&none, 0, MASK_SIZE, 0);
	refused = execute(argv, envp);
	call(__NR_write, report_to, (long)&refused, sizeof refused, 0, 0);
	quit(NO_COMMAND);
}

static void pass_on(int number)
{
	call(__NR_kill, child, number, 0, 0, 0);
}

/* Handled, not blocked: who looks at an init of a pid namespace sees so that it can be reached (signal(7)). */
static void handle_signals(void)
{
	struct action action = {pass_on, SA_RESTORER | SA_RESTART, give_back, ~0UL};
	mask none = 0;
	int number;

	for (number = 1; number <= LAST_SIGNAL; number++)
		if (number != SIGCHLD)
			call(__NR_rt_sigaction, number, (long)&action, 0, MASK_SIZE, 0);
	call(__NR_rt_sigprocmask, SIG_SETMASK, (long)&none, 0, MASK_SIZE, 0);
}

/* A process that asks to be traced (PTRACE_TRACEME) makes its parent the tracer, and stops at its next signal. That is
 * no end: it continues untraced, with its signal. */
static void continue_untraced(long pid, int number)
{
	call(__NR_ptrace, PTRACE_DETACH, pid, 0, number == SIGTRAP ? 0 : number, 0);
}

static void stay(char **argv, char **envp) __attribute__((noreturn));
static void stay(char **argv, char **envp)
{
	struct refusal refused;
	mask all = ~0UL;
	int ends[2], status;
	long result;

	call(__NR_rt_sigprocmask, SIG_BLOCK, (long)&all, 0, MASK_SIZE, 0);
	call(__NR_prctl, PR_SET_NAME, (long)"longshore-init", 0, 0, 0); /* from here on no signal is lost */
	result = call(__NR_pipe2, (long)ends, O_CLOEXEC, 0, 0, 0);
	if (result < 0)
		fail_to_fork(result);
	child = call(__NR_clone, SIGCHLD, 0, 0, 0, 0);
	if (child < 0)
		fail_to_fork(child);
	if (child == 0)
		become(argv, envp, ends[1]);
	call(__NR_close, ends[1], 0, 0, 0, 0);
	result = call(__NR_read, ends[0], (long)&refused, sizeof refused, 0, 0);
	if (result == sizeof refused)
		report(refused);
	call(__NR_close, ends[0], 0, 0, 0, 0);
	if (record >= 0)
		call(__NR_close, record, 0, 0, 0, 0);
	if (wake >= 0)
		call(__NR_close, wake, 0, 0, 0, 0);
	call(__NR_prctl, PR_SET_DUMPABLE, 1, 0, 0, 0); /* nothing is left to take: others may look at it as at any init */
	handle_signals();
	for (;;) {
		result = call(__NR_wait4, -1, (long)&status, 0, 0, 0);
		if (result > 0 && (status & 0xff) == STOPPED)
			continue_untraced(result, status >> 8 & 0xff);
		else if (result == child)
			quit(status & 0x7f ? 128 + (status & 0x7f) : status >> 8 & 0xff);
	}
}

static void put_name(char *own, const char *name)
{
	unsigned long size = length(name);

	if (length(own) == size)
		while (size--)
			own[size] = name[size];
}

void begin(long *stack) __attribute__((noreturn, used));
void begin(long *stack)
{
	long count = stack[0];
	char **argv = (char **)(stack + 1), **envp = argv + count + 1;
	char fifo[] = "/proc/self/fd/0";
	const char *flag = argv[1];
	int init = 0;

	call(__NR_prctl, PR_SET_DUMPABLE, 0, 0, 0, 0);
	call(__NR_prctl, PR_SET_NAME, (long)"longshore-first", 0, 0, 0); /* what the engine knows it by */
	if (count < 3)
		quit(NO_COMMAND);
	while (*flag) {
		char kind = *flag++, digit = *flag;
		int number = digit - '0';

		switch (kind) {
		case 'x':
			call(__NR_close, number, 0, 0, 0, 0);
			flag++;
			break;
		case 'w':
			fifo[sizeof fifo - 2] = digit;
			wake = call(__NR_openat, AT_FDCWD, (long)fifo, O_WRONLY | O_NONBLOCK | O_CLOEXEC, 0, 0);
			call(__NR_close, number, 0, 0, 0, 0);
			flag++;
			break;
		case 'r':
			record = number;
			call(__NR_fcntl, record, F_SETFD, FD_CLOEXEC, 0, 0);
			flag++;
			break;
		case 'c':
			for (number = 0; *flag >= '0' && *flag <= '9'; flag++)
				number = number * 10 + *flag - '0';
			enter(number);
			break;
		case 'i':
			init = 1;
			break;
		default:
			quit(NO_COMMAND);
		}
	}
	say('r', 0, 0);
	if (init) {
		put_name(argv[0], "/longshore-init");
		stay(argv + 2, envp);
	}
	report(execute(argv + 2, envp));
}
