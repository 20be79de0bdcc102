#include "textflag.h"

// The helper task, and the start of a command: see calls_linux.go for the layout of a
// list and of a call, and launch_linux.go for that of a launch. What runs in the helper,
// the watcher and the command uses registers only, calls nothing, and never touches Go's
// stack or TLS.

#define BOX R12
#define CALL R13
#define LEFT R15

#define SYS_close 3
#define SYS_munmap 11
#define SYS_rt_sigprocmask 14
#define SYS_clone 56
#define SYS_exit 60
#define SYS_getppid 110
#define SYS_prctl 157
#define SYS_futex 202
#define SYS_exit_group 231
#define SYS_waitid 247
#define SYS_pidfd_send_signal 424

// MAKE_CALL makes a call, and goes to next with the following one. An error skips the
// calls that depend on this one. After the last it goes to end.
#define MAKE_CALL(end) \
	MOVQ 0(CALL), AX;    \
	MOVQ 8(CALL), DI;    \
	MOVQ 16(CALL), SI;   \
	MOVQ 24(CALL), DX;   \
	MOVQ 32(CALL), R10;  \
	MOVQ 40(CALL), R8;   \
	MOVQ 48(CALL), R9;   \
	SYSCALL;             \
	MOVQ AX, 56(CALL);   \
	MOVL $1, BX;         \
	CMPQ AX, $-4095;     \
	JCS  advance;        \
	ADDL 64(CALL), BX;   \
advance:                 \
	CMPL BX, LEFT;       \
	JHI  end;            \
	SUBL BX, LEFT;       \
	IMULQ $72, BX;       \
	ADDQ BX, CALL;       \
	JMP  next

// func spawn(flags, stack, ctid, box uintptr) (pid uintptr)
TEXT ·spawn(SB), NOSPLIT, $0-40
	MOVQ flags+0(FP), DI
	MOVQ stack+8(FP), SI
	XORL DX, DX
	MOVQ ctid+16(FP), R10
	XORL R8, R8
	MOVQ box+24(FP), BOX
	MOVL $SYS_clone, AX
	SYSCALL
	TESTQ AX, AX
	JEQ  helper
	MOVQ AX, pid+32(FP)
	RET

helper:
	// If it is stopped, it goes on when the thread dies that is its parent, and finds
	// the word: prctl(PR_SET_PDEATHSIG, SIGCONT).
	MOVL $1, DI
	MOVL $18, SI
	MOVL $SYS_prctl, AX
	SYSCALL

wait:
	MOVL 0(BOX), AX
	CMPL AX, $2            // stateRequest
	JEQ  run
	CMPL AX, $1            // stateIdle
	JNE  exit
	MOVQ BOX, DI
	XORL SI, SI            // FUTEX_WAIT
	MOVL $1, DX            // while stateIdle
	XORL R10, R10
	MOVL $SYS_futex, AX
	SYSCALL
	JMP  wait

run:
	LEAQ 64(BOX), CALL
	MOVL 4(BOX), LEFT

next:
	TESTL LEFT, LEFT
	JEQ  done
	CMPL 0(BOX), $2        // else nobody waits for the rest
	JNE  exit
	MAKE_CALL(done)

done:
	// From stateRequest to stateIdle; what says that it is the end stays.
	MOVL $2, AX
	MOVL $1, CX
	LOCK
	CMPXCHGL CX, 0(BOX)
	JNE  exit
	MOVQ BOX, DI
	MOVL $1, SI            // FUTEX_WAKE
	MOVL $1, DX
	MOVL $SYS_futex, AX
	SYSCALL
	JMP  wait

exit:
	CMPL 0(BOX), $0        // stateGone
	JNE  leave

	// The program is no more. Its commands end, each with its process group (which
	// the kernel does from Linux 6.9 on).
	LEAQ ·commands(SB), CALL
	MOVL 0(CALL), LEFT

kill:
	TESTL LEFT, LEFT
	JEQ  leave
	SUBL $1, LEFT
	MOVL 4(CALL)(LEFT*4), DI
	TESTL DI, DI
	JLT  kill
	MOVL $9, SI            // SIGKILL
	XORL DX, DX
	XORL R10, R10
	MOVL $SYS_pidfd_send_signal, AX
	SYSCALL
	MOVL $4, R10           // PIDFD_SIGNAL_PROCESS_GROUP
	MOVL $SYS_pidfd_send_signal, AX
	SYSCALL
	JMP  kill

leave:
	XORL DI, DI
	MOVL $SYS_exit_group, AX
	SYSCALL
	INT  $3

// func watch(box, flags, stack uintptr) (tid uintptr)
TEXT ·watch(SB), NOSPLIT, $0-32
	MOVQ box+0(FP), BOX
	MOVL $2, DI            // SIG_SETMASK
	LEAQ 32(BOX), SI       // all
	LEAQ 40(BOX), DX       // mask
	MOVL $8, R10
	MOVL $SYS_rt_sigprocmask, AX
	SYSCALL
	MOVQ flags+8(FP), DI
	MOVQ stack+16(FP), SI
	XORL DX, DX
	XORL R10, R10
	XORL R8, R8
	MOVL $SYS_clone, AX
	SYSCALL
	TESTQ AX, AX
	JEQ  watcher
	MOVQ AX, tid+24(FP)
	MOVL $2, DI
	LEAQ 40(BOX), SI
	XORL DX, DX
	MOVL $8, R10
	MOVL $SYS_rt_sigprocmask, AX
	SYSCALL
	RET

watcher:
	// It sleeps until the command has executed the program, or is dead.
	MOVL $0x1005111, DI    // CLONE_VM|CLONE_VFORK|CLONE_PIDFD|CLONE_CHILD_SETTID|SIGCHLD
	XORL SI, SI            // the same stack
	MOVQ 64(BOX), DX       // slot
	LEAQ 16(BOX), R10      // pid
	XORL R8, R8
	MOVL $SYS_clone, AX
	SYSCALL
	TESTQ AX, AX
	JEQ  command
	MOVQ AX, 24(BOX)
	MOVL 0(BOX), DI        // done
	MOVL $SYS_close, AX
	SYSCALL

hold:
	// Until Start has read the results.
	MOVL 20(BOX), AX
	TESTL AX, AX
	JNE  live
	LEAQ 20(BOX), DI
	XORL SI, SI            // FUTEX_WAIT
	XORL DX, DX            // while it is 0
	XORL R10, R10
	MOVL $SYS_futex, AX
	SYSCALL
	JMP  hold

live:
	MOVL $1, DI            // P_PID
	MOVL 16(BOX), SI
	XORL DX, DX
	MOVL $0x1000004, R10   // WEXITED|WNOWAIT
	XORL R8, R8
	MOVL $SYS_waitid, AX
	SYSCALL
	CMPQ AX, $-4           // EINTR
	JEQ  live
	MOVQ BOX, DI
	MOVQ 56(BOX), SI
	MOVL $SYS_munmap, AX
	SYSCALL
	XORL DI, DI
	MOVL $SYS_exit, AX
	SYSCALL
	INT  $3

command:
	// Die with the watcher: prctl(PR_SET_PDEATHSIG, SIGKILL). If it died before
	// that, the parent is another process already.
	MOVL $1, DI
	MOVL $9, SI
	MOVL $SYS_prctl, AX
	SYSCALL
	MOVQ AX, 72(BOX)
	TESTQ AX, AX
	JNE  exit              // a seccomp filter forbids it
	MOVL $SYS_getppid, AX
	SYSCALL
	CMPQ AX, 8(BOX)
	JNE  exit
	MOVL 48(BOX), AX       // cancelled
	TESTL AX, AX
	JNE  exit
	LEAQ 88(BOX), CALL
	MOVL 4(BOX), LEFT

next:
	TESTL LEFT, LEFT
	JEQ  exit
	MAKE_CALL(exit)

exit:
	MOVL $127, DI
	MOVL $SYS_exit_group, AX
	SYSCALL
	INT  $3
