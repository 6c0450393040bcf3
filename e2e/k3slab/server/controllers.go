package server

import (
	"context"
	"fmt"

	kcm "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	kcmoptions "k8s.io/kubernetes/cmd/kube-controller-manager/app/options"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
	scheduleroptions "k8s.io/kubernetes/cmd/kube-scheduler/app/options"
)

func (s *server) runControllerManager(ctx context.Context) error {
	options, err := kcmoptions.NewKubeControllerManagerOptions()
	if err != nil {
		return fmt.Errorf("kube-controller-manager: %w", err)
	}
	known, disabled, aliases := kcm.KnownControllers(), kcm.ControllersDisabledByDefault(), kcm.ControllerAliases()
	tls := s.credentials.tls
	args := append(componentArgs(s.kubeconfig("controller"), "10257"),
		"--allocate-node-cidrs=true",
		"--cluster-cidr="+s.clusterCIDR,
		"--cluster-signing-cert-file="+tls("client-ca.crt"),
		"--cluster-signing-key-file="+tls("client-ca.key"),
		// Without those that need a cloud.
		"--controllers=*,tokencleaner,-service,-route,-cloud-node-lifecycle",
		"--root-ca-file="+tls("server-ca.crt"),
		"--service-account-private-key-file="+tls("service.key"),
		"--service-cluster-ip-range="+s.serviceCIDR,
		"--use-service-account-credentials=true",
	)
	if err := parseInto(options.Flags(known, disabled, aliases), args, s.options.List("kube-controller-manager-arg")); err != nil {
		return fmt.Errorf("kube-controller-manager: %w", err)
	}
	config, err := options.Config(ctx, known, disabled, aliases)
	if err != nil {
		return fmt.Errorf("kube-controller-manager: %w", err)
	}
	return kcm.Run(ctx, config.Complete())
}

func (s *server) runScheduler(ctx context.Context) error {
	options := scheduleroptions.NewOptions()
	if err := parseInto(*options.Flags, componentArgs(s.kubeconfig("scheduler"), "10259"), s.options.List("kube-scheduler-arg")); err != nil {
		return fmt.Errorf("kube-scheduler: %w", err)
	}
	config, built, err := scheduler.Setup(ctx, options)
	if err != nil {
		return fmt.Errorf("kube-scheduler: %w", err)
	}
	return scheduler.Run(ctx, config, built)
}

func componentArgs(kubeconfig, port string) []string {
	return []string{
		"--kubeconfig=" + kubeconfig,
		"--authentication-kubeconfig=" + kubeconfig,
		"--authorization-kubeconfig=" + kubeconfig,
		"--bind-address=127.0.0.1",
		"--secure-port=" + port,
		"--leader-elect=true",
		"--profiling=false",
	}
}
