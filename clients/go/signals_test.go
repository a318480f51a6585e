package credbroker_test

import "syscall"

const (
	stop = syscall.SIGSTOP
	cont = syscall.SIGCONT
)
